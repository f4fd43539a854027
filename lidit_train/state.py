"""The state of a small run in one file, written beside and renamed."""

from __future__ import annotations

from pathlib import Path

import torch

from lidit_core.errors import LiDiTError
from lidit_core.files import replacing


def save_atomically(state: dict, path: Path) -> None:
    """Write beside, then rename: the old file stays whole until the new one is."""
    with replacing(path) as beside:
        torch.save(state, beside)


def load_state(path: Path) -> dict | None:
    """The saved state, or None where a run has not begun."""
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise LiDiTError(
            f"{path} is no training state that can be read ({error}); expected one that this "
            "trainer wrote; move it away to start anew"
        ) from error
