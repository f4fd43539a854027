"""The folders of ComfyUI that this pack adds: LLMs, templates, adapters, prompts, bridges."""

from __future__ import annotations

import contextlib
import os
from pathlib import PurePosixPath, PureWindowsPath

import folder_paths

from ..lidit_core.errors import LiDiTError
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


def plain_name(name: str) -> str:
    """A name as listed, whichever system saved the workflow.

    Raises:
        LiDiTError: it leads out of the model folders.
    """
    plain = str(name).replace("\\", "/")
    if ".." in PurePosixPath(plain).parts or plain[:1] == "/" or PureWindowsPath(plain).drive:
        raise LiDiTError(
            f"the name {str(name)[:80]!r} leads out of the model folders; expected one that is "
            "listed, so choose it again"
        )
    return plain
