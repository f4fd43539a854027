"""Finds LLMDiff adapters."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import folder_paths

from ...lidit_core.errors import LiDiTError
from ...lidit_core.io.tensors import opened
from ...lidit_core.llmdiff.file import ADAPTER_KEY
from ...lidit_core.paths import SHIPPED_WEIGHTS, files_like
from ..folders import ADAPTERS, plain_name

SUFFIX = ".safetensors"
NONE = f"(put a {SUFFIX} file into models/{ADAPTERS})"


def adapters() -> list[str]:
    """Shipped adapters first, then the host's files, each name once; never empty."""
    names = [name.replace("\\", "/") for name in folder_paths.get_filename_list(ADAPTERS)]
    files = [name for name in names if name.endswith(SUFFIX)]
    return list(dict.fromkeys([*_shipped(), *files])) or [NONE]


def _shipped() -> list[str]:
    """The adapters among the weights that come with the pack, by their metadata."""
    found = []
    for path in files_like(SHIPPED_WEIGHTS, f"*{SUFFIX}"):
        with contextlib.suppress(LiDiTError, OSError), opened(path) as file:  # damaged on its way
            if ADAPTER_KEY in (file.metadata() or {}):
                found.append(path.name)
    return found


def find_adapter(name: str) -> Path:
    """The file of a listed name; names from another system's workflow are understood.

    Raises:
        LiDiTError: the name leads out of the model folders, or no file has it.
    """
    plain = plain_name(name)
    for folder in (SHIPPED_WEIGHTS, *folder_paths.get_folder_paths(ADAPTERS)):
        if os.path.isfile(path := Path(folder) / plain):
            return path
    if name == NONE:
        raise LiDiTError(
            f"there is no LLMDiff adapter yet; put a {SUFFIX} file into models/{ADAPTERS}, press R "
            "and choose it from the list"
        )
    raise LiDiTError(
        f"no file {name!r} in models/{ADAPTERS} or among the shipped weights; put it there and "
        "press R, or choose another from the list"
    )


def fingerprint(name: str | None) -> str:
    """A text that changes when the file does; a name that another node gives is None here."""
    if name is None:
        return ""
    stat = find_adapter(name).stat()
    return repr((name, stat.st_size, stat.st_mtime_ns))
