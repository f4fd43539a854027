"""Where an LLM is: a path, the user cache, an installed package, or (only when asked) the hub."""

from __future__ import annotations

import functools
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

from ..errors import LiDiTError
from ..paths import at_home, llm_folder
from .demo_llms import DEMO_LLMS, DemoLLM, MissingLLM
from .fetch import paste_line

HUB = "hub:"  # the prefix that permits going online


@dataclass(frozen=True)
class LLMSource:
    """One LLM: a model folder, or the GGUF file (or its parts in order) to convert into it."""

    name: str
    folder: Path | None  # holds config.json, or will once converted; None for the hub
    parts: tuple[Path, ...] = ()  # of the GGUF
    repo: str = ""  # on the hub

    @property
    def converted(self) -> bool:
        return self.folder is not None and (self.folder / "config.json").is_file()


def locate(source: str | Path) -> LLMSource:
    """Find an LLM without reading it.

    `source` is the path of a model folder or of a GGUF file, a name (looked up in the user cache
    and among the installed packages), or `hub:owner/name`.
    """
    text = str(source)
    if text.startswith(HUB):
        return LLMSource(text[len(HUB) :].split("/")[-1], None, repo=text[len(HUB) :])
    path = at_home(text)
    if path.suffix.lower() == ".gguf":
        return _gguf(path)
    if path.is_dir():
        return _folder(path)
    if path.suffix.lower() == ".safetensors":
        raise LiDiTError(
            f"{path} is the weights of an LLM alone; expected a model folder, so put it into a "
            "folder of its own together with its config.json and tokenizer.json"
        )
    found = None if path.is_absolute() or ".." in path.parts else _named(text)
    if found is None:
        raise LiDiTError(
            f"no LLM is found at {text!r}, in {llm_folder(text)} or among the installed packages; "
            f"give a model folder or a GGUF file, run `lidit fetch`, or write {HUB}owner/name to "
            "download it from the hub"
        )
    return found


def available(source: str | Path) -> bool:
    """Whether `locate` finds it on this machine."""
    try:
        return bool(locate(source).folder)
    except LiDiTError:
        return False


def installed_llms() -> list[str]:
    """The names that `locate` knows on this machine: in the user cache, and as packages."""
    folders = llm_folder("").glob("*/")
    names = {*(folder.name for folder in folders), *(llm.name for llm in DEMO_LLMS)}
    return sorted((name for name in names if _named(name)), key=str.lower)


def check_present(source: str) -> None:
    """Raise the line to paste where a demo LLM is asked for by name and is not there."""
    if not available(source) and any(source == llm.name for llm in DEMO_LLMS):
        raise MissingLLM(
            f"the LLM {source} is not on this machine; fetch it with: {paste_line(source)}"
        )


def stated_width(found: LLMSource) -> int | None:
    """Channels of a hidden state by the LLM's config.json, read without transformers.

    None where the file does not say, or is not there before the first load.
    """
    folder = found.folder
    if folder is None or not found.converted:
        return None
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        width = config.get("text_config", config).get("hidden_size")
    except (OSError, ValueError, AttributeError):  # the load says what is wrong with it
        return None
    return width if isinstance(width, int) else None


def _gguf(path: Path) -> LLMSource:
    if not path.is_file():
        raise LiDiTError(f"GGUF file {path} does not exist; correct the path")
    stat = path.stat()
    content = _content(path.resolve(), stat.st_size, stat.st_mtime_ns)
    return LLMSource(path.stem, llm_folder(f"{path.stem}-{content[:8]}"), (path,))


@functools.lru_cache(maxsize=64)
def _content(path: Path, size: int, mtime_ns: int) -> str:
    """A GGUF file's fingerprint, after which its converted copy is named; read once a version."""
    from .gguf import fingerprint

    return fingerprint([path])


def _folder(path: Path) -> LLMSource:
    """A model folder, or one that holds nothing but one GGUF file."""
    name = path.resolve().name
    if (path / "config.json").is_file():
        return LLMSource(name, path)
    ggufs = sorted(path.glob("*.gguf"))
    if len(ggufs) == 1:
        return _gguf(ggufs[0])
    raise LiDiTError(
        f"folder {path} has no config.json and {len(ggufs)} GGUF files; expected a Hugging Face "
        "model folder, so give one or the path of a GGUF file"
    )


def _named(name: str) -> LLMSource | None:
    folder = llm_folder(name)
    if (folder / "config.json").is_file():
        return LLMSource(name, folder)
    ggufs = sorted(folder.glob("*.gguf"))
    if len(ggufs) == 1:
        return LLMSource(name, folder, tuple(ggufs))
    demo = next((llm for llm in DEMO_LLMS if llm.name == name), None)
    parts = package_parts(demo) if demo else None
    return LLMSource(name, folder, parts) if parts else None


def package_parts(llm: DemoLLM) -> tuple[Path, ...] | None:
    """The GGUF's parts in the installed wheels, which are not imported; None if one lacks."""
    parts = []
    for piece in (wheel.piece for wheel in llm.wheels if wheel.piece):
        package, _, file = piece.partition("/")
        spec = importlib.util.find_spec(package)
        roots = list(spec.submodule_search_locations or ()) if spec else []
        parts.append(Path(roots[0]) / file if roots else None)
    return tuple(parts) if all(part and part.is_file() for part in parts) else None
