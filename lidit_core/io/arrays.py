"""Arrays that are computed once and kept in a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from .atomic import replacing


def kept_array(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array of an .npy file, which is made and written where it is not there."""
    if not path.exists():
        values = make()
        with replacing(path) as beside, open(beside, "wb") as file:
            np.save(file, values)
    return np.load(path)
