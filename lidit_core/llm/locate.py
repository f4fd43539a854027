"""Finds an LLM by a path, in the user cache, in an installed package, or (if asked) on the hub."""

from __future__ import annotations

import functools
import importlib.util
import json
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import LiDiTError, check
from ..paths import at_home, files_like, llm_folder
from .demo_llms import DEMO_LLMS, DemoLLM, MissingLLM
from .fetch import paste_line

log = logging.getLogger(__name__)
COPY = re.compile("-[0-9a-f]{8}")  # what follows a GGUF's name in that of its copy
SINGLE = ".safetensors"
HUB = "hub:"  # the prefix that permits going online


@dataclass(frozen=True)
class LLMSource:
    """One LLM: a model folder, or the GGUF file (or its parts in order) to convert into it."""

    name: str
    folder: Path | None  # holds config.json, or will once converted; None for the hub
    parts: tuple[Path, ...] = ()  # of the GGUF
    repo: str = ""  # on the hub
    weights: Path | None = None  # the file, where it is a single one; `folder` says what it is
    tokenizer: Path | None = None  # the model folder that was named for its tokenizer

    @property
    def converted(self) -> bool:
        return self.folder is not None and (self.folder / "config.json").is_file()


def locate(source: str | Path) -> LLMSource:
    """Find an LLM without reading it.

    `source` is the path of a model folder, of a GGUF file or of a single safetensors file (after
    whose name "@FOLDER" may name a tokenizer), a name (looked up in the user cache and among the
    installed packages), or `hub:owner/name`.
    """
    text = str(source)
    if text.startswith(HUB):
        return LLMSource(text[len(HUB) :].split("/")[-1], None, repo=text[len(HUB) :])
    path = at_home(text)
    weights, at, tokenizer = text.partition(f"{SINGLE}@")
    if path.suffix.lower() == SINGLE or at:
        return _single(at_home(weights + SINGLE if at else text), tokenizer)
    if path.suffix.lower() == ".gguf":
        return _gguf(path)
    if os.path.isdir(path):
        return _folder(path)
    found = None if path.is_absolute() or ".." in path.parts else _named(text)
    if found is None:
        raise LiDiTError(
            f"no LLM is found at {text!r}, in {llm_folder(text)} or among the installed packages; "
            f"give a model folder, a GGUF or a safetensors file, run `lidit fetch`, or write "
            f"{HUB}owner/name to download it from the hub"
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
    return sorted(filter(_is_named, names), key=str.lower)


def _is_named(name: str) -> bool:
    """Whether there is an LLM of this name; one of which files lack is told of at its load."""
    try:
        return _named(name) is not None
    except LiDiTError:
        return True
    except OSError:  # another user's
        return False


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
        config = config.get("text_config", config)
        width = config.get("hidden_size", config.get("d_model"))
    except (OSError, ValueError, AttributeError):  # the load says what is wrong with it
        return None
    return width if isinstance(width, int) else None


def _gguf(path: Path) -> LLMSource:
    from .gguf.convert import NOTE, copy_name, older_copy_name, outdated
    from .gguf.header import split_files

    stem, parts = split_files(path)
    if not all(os.path.isfile(part) for part in parts):
        return _copy_without_its_gguf(path, stem)
    content = _content(tuple(map(_version, parts)))
    older = llm_folder(older_copy_name(stem, content))
    right = (older / "config.json").is_file() and not (older / NOTE).is_file()
    if right and not outdated(parts, older):
        return LLMSource(stem, older, parts)
    return LLMSource(stem, llm_folder(copy_name(stem, content)), parts)


def _single(path: Path, tokenizer: str) -> LLMSource:
    """One file of weights; the folder that says what it is, is made at the load."""
    from .single.file import digest

    check(os.path.isfile(path), f"the file {path} does not exist; correct the path")
    named = model_folder_of(tokenizer) if tokenizer else None
    stem = path.stem
    folder = llm_folder(f"{stem}-{digest(path, named)[:8]}")
    return LLMSource(stem, folder, weights=path, tokenizer=named)


def model_folder_of(source: str) -> Path:
    """The folder of an LLM that is named for its tokenizer; nothing is converted for it."""
    found = locate(source)
    check(
        found.folder is not None and os.path.isfile(found.folder / "tokenizer.json"),
        f"{source} has no tokenizer.json; name a model folder that has the tokenizer",
    )
    assert found.folder is not None
    return found.folder


def _copy_without_its_gguf(path: Path, stem: str) -> LLMSource:
    """The one copy that was made of a GGUF of this name, which is there no more."""
    copies = [f for f in llm_folder("").glob("*/") if COPY.fullmatch(f.name.removeprefix(stem))]
    copies = [f for f in copies if f.name.startswith(stem) and (f / "config.json").is_file()]
    check(len(copies) == 1, f"GGUF file {path} does not exist; correct the path")
    log.warning("GGUF file %s is gone; its copy in %s is used", path, copies[0])
    return LLMSource(stem, copies[0])


def _version(path: Path) -> tuple[Path, int, int]:
    stat = path.stat()
    return path.resolve(), stat.st_size, stat.st_mtime_ns


@functools.lru_cache(maxsize=64)
def _content(versions: tuple[tuple[Path, int, int], ...]) -> str:
    """The digest of a GGUF, after which its converted copy is named; read once a version."""
    from .gguf.convert import content_digest

    return content_digest([path for path, *_ in versions])


def given_name(path: Path) -> str:
    """The name of a model folder as it was given: of a link the link's own.

    A snapshot in a Hugging Face cache has its repository's, for its own is a commit.
    """
    path = Path(os.path.abspath(path))
    repository = path.parent.parent.name
    if path.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.split("--")[-1]
    return path.name


def whole_ggufs(folder: Path) -> list[Path]:
    """The GGUF files in a folder, of a split one the first alone."""
    from .gguf.header import later_split

    return [path for path in files_like(folder, "*.gguf") if not later_split(path)]


def _folder(path: Path) -> LLMSource:
    """A model folder, or one that holds nothing but one GGUF file."""
    name = given_name(path)
    if os.path.isfile(path / "config.json"):
        return LLMSource(name, path)
    ggufs = whole_ggufs(path)
    if len(ggufs) == 1:
        return _gguf(ggufs[0])
    raise LiDiTError(
        f"folder {path} has no config.json and {len(ggufs)} GGUF files; expected a Hugging Face "
        "model folder, so give one or the path of a GGUF file"
    )


def _named(name: str) -> LLMSource | None:
    from .gguf.header import split_files

    folder = llm_folder(name)
    ggufs = whole_ggufs(folder)
    if os.path.isfile(folder / "config.json") and len(ggufs) != 1:
        return LLMSource(name, folder)
    if len(ggufs) == 1:
        return LLMSource(name, folder, split_files(ggufs[0])[1])
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
    return tuple(parts) if all(part and os.path.isfile(part) for part in parts) else None
