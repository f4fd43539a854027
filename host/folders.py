"""The folders of ComfyUI that this pack adds: LLMs, templates, adapters, prompts, bridges."""

from __future__ import annotations

import contextlib
import os
import unicodedata
from pathlib import Path, PurePosixPath, PureWindowsPath

import folder_paths

from ..lidit_core.errors import LiDiTError
from ..lidit_core.paths import is_hidden
from ..lidit_core.text.templates import SUFFIXES

LLMS, TEMPLATES, ADAPTERS = "llm", "llm_templates", "llmdiff"  # our folders in `models`
CONDITIONING, BRIDGES = "conditioning", "bridges"
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


def is_name(text: str) -> bool:
    """Whether a file can be called so: wide spaces and joined emoji are common, zero bytes not."""
    return not any(unicodedata.category(letter) == "Cc" for letter in text)


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
