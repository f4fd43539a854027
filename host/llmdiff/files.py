"""Finds LLMDiff adapters."""

from __future__ import annotations

import contextlib
from pathlib import Path

from ...lidit_core.errors import LiDiTError
from ...lidit_core.io.tensors import opened
from ...lidit_core.llmdiff.file import ADAPTER_KEY
from ...lidit_core.paths import SHIPPED_WEIGHTS, files_like
from ..folders import ADAPTERS, SUFFIX, find_weights, none_in, weights_in


def adapters() -> list[str]:
    """Shipped adapters first, then the host's files, each name once; never empty."""
    return list(dict.fromkeys([*_shipped(), *weights_in(ADAPTERS)])) or [none_in(ADAPTERS)]


def _shipped() -> list[str]:
    """The adapters among the weights that come with the pack, by their metadata."""
    found = []
    for path in files_like(SHIPPED_WEIGHTS, f"*{SUFFIX}"):
        with contextlib.suppress(LiDiTError, OSError), opened(path) as file:  # damaged on its way
            if ADAPTER_KEY in (file.metadata() or {}):
                found.append(path.name)
    return found


def find_adapter(name: str) -> Path:
    """The file of a listed name, see `find_weights`."""
    return find_weights(name, ADAPTERS, "there is no LLMDiff adapter yet", shipped=True)
