"""The Hugging Face hub: an LLM's folder there, its commit, its download."""

from __future__ import annotations

from pathlib import Path

from ..errors import LiDiTError, first_line
from ..paths import llm_folder
from .gguf import convert, recheck
from .gguf_tokenizer import CHECKED
from .locate import HUB, LLMSource


def model_folder(found: LLMSource) -> Path:
    """The model folder of a located LLM, converted or downloaded first where need be."""
    if found.folder is None:
        return download(found.repo)
    if not found.converted:
        convert(found.parts, found.folder)
    elif parts := _unchecked(found.folder, found.parts):
        recheck(parts, found.folder)
    return found.folder


def _unchecked(folder: Path, parts: tuple[Path, ...]) -> tuple[Path, ...]:
    """The GGUF of a converted copy whose tokenizer was never checked; none of a user's folder."""
    if folder.parent != llm_folder("") or (folder / CHECKED).is_file():
        return ()
    ggufs = parts or tuple(folder.glob("*.gguf"))
    return ggufs if parts or len(ggufs) == 1 else ()


def downloaded_commit(repo: str) -> str | None:
    """The commit of the newest copy of a hub model on this machine; None where there is none."""
    from huggingface_hub import try_to_load_from_cache

    try:
        config = try_to_load_from_cache(repo, "config.json")
    except ValueError:  # no name of a repository; the download says so
        return None
    return Path(config).parent.name if isinstance(config, str) else None


def download(repo: str) -> Path:
    """Fetch a model from the hub; only ever called for a source that begins with `hub:`."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, allow_patterns=["*.json", "*.safetensors", "*.model",
                                                            "*.txt", "*.jinja"]))  # fmt: skip
    except Exception as error:
        raise LiDiTError(
            f"{HUB}{repo} cannot be downloaded ({first_line(error)}); check the name and the "
            "connection, or give a model folder"
        ) from error
