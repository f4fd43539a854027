"""The folders of ComfyUI that this pack adds: LLMs, templates, adapters, prompts, bridges."""

from __future__ import annotations

import contextlib
import os
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath

import folder_paths

from ..lidit_core.errors import LiDiTError, check, shown
from ..lidit_core.paths import SHIPPED_WEIGHTS, is_hidden
from ..lidit_core.text.templates import SUFFIXES

LLMS, TEMPLATES, ADAPTERS = "llm", "llm_templates", "llmdiff"  # our folders in `models`
CONDITIONING, BRIDGES = "conditioning", "bridges"
SUFFIX = ".safetensors"  # how the name of a file of weights ends
SUFFIXES_IN = {
    LLMS: {".gguf", ".safetensors"},
    TEMPLATES: set(SUFFIXES),
    ADAPTERS: {".safetensors"},
    CONDITIONING: {".safetensors"},
    BRIDGES: {".safetensors"},
}


def register() -> None:
    """Tell the host of our folders, and make them where they can be made."""
    for kind, suffixes in SUFFIXES_IN.items():
        folder = os.path.join(folder_paths.models_dir, kind)
        folder_paths.add_model_folder_path(kind, folder)
        folders, known = folder_paths.folder_names_and_paths[kind]
        folder_paths.folder_names_and_paths[kind] = (folders, set(known) | suffixes)
        with contextlib.suppress(OSError):
            os.makedirs(folder, exist_ok=True)


def entries_of(folder: Path) -> list[Path]:
    """What lies in a folder and is not hidden, in order; nothing where the system does not say.

    Lists of files are made while the host loads the pack: one link to another user's files, or a
    share that is gone, must hide neither the node nor the pack. So whoever lists files asks this
    and `os.path`, which says no where `pathlib` raises.
    """
    try:
        return sorted(path for path in folder.iterdir() if not is_hidden(path))
    except OSError:
        return []


def files_below(folder: Path) -> list[Path]:
    """The files in a folder and the folders in it that are not hidden, in order."""
    found = (Path(place, name) for place, _, names in os.walk(folder) for name in names)
    return sorted(path for path in found if not is_hidden(path) and os.path.isfile(path))


def weights_in(kind: str) -> list[str]:
    """The files of weights that the host lists in its folders of a kind, by names with "/"."""
    names = [name.replace("\\", "/") for name in folder_paths.get_filename_list(kind)]
    return [name for name in names if name.endswith(SUFFIX)]


def none_in(kind: str) -> str:
    """What a list shows where there is no file of weights."""
    return f"(put a {SUFFIX} file into models/{kind})"


def find_weights(name: str, kind: str, none_yet: str, shipped: bool = False) -> Path:
    """The file of a listed name; names from another system's workflow are understood.

    Args:
        none_yet: how the error begins where nothing is listed; whole, so that a search finds it.
        shipped: whether the shipped weights are searched, before the host's folders of this kind.
    Raises:
        LiDiTError: the name leads out of the model folders, or no file has it.
    """
    plain = plain_name(name)
    for folder in (*([SHIPPED_WEIGHTS] * shipped), *folder_paths.get_folder_paths(kind)):
        if os.path.isfile(path := Path(folder) / plain):  # False for a name that no system takes
            return path
    check(
        name != none_in(kind),
        f"{none_yet}; put a {SUFFIX} file into models/{kind}, press R and choose it from the list",
    )
    among = " or among the shipped weights" if shipped else ""
    raise LiDiTError(
        f"no file {shown(name)} in models/{kind}{among}; put it there and press R, or choose "
        "another from the list"
    )


def stats_of(paths: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Names, sizes and times of files, which change when one of the files does."""
    stats = [(path.name, path.stat()) for path in paths]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def fingerprint(
    name: str | None,
    find: Callable[[str], Path],
    beside: Callable[[Path], Iterable[Path]] = lambda _: (),
) -> str:
    """A text that changes when a listed file does, so that the host loads it again.

    Args:
        name: None where another node gives it; the host looks at what gives it.
        beside: which files are read with it.
    """
    if name is None:
        return ""
    path = find(name)
    return repr(stats_of([path, *beside(path)]))


def is_name(text: str) -> bool:
    """Whether a file can be called so: wide spaces and joined emoji are common, zero bytes and
    halves of characters are not.
    """
    return not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text)


def plain_name(name: str) -> str:
    """A name as listed, whichever system saved the workflow.

    Raises:
        LiDiTError: it leads out of the model folders, or no file can be called so.
    """
    plain = str(name).replace("\\", "/")
    if not is_name(plain):
        raise LiDiTError(
            f"the name {str(name)[:80]!r} holds characters that no file's name has; write or "
            "choose another"
        )
    if ".." in PurePosixPath(plain).parts or plain[:1] == "/" or PureWindowsPath(plain).drive:
        raise LiDiTError(
            f"the name {str(name)[:80]!r} leads out of the model folders; expected one that is "
            "listed, so choose it again"
        )
    return plain
