"""The sizes of pictures that a model draws as it was trained to."""

from __future__ import annotations

import math

from ..model.config import LiDiTConfig

FAR_FROM_NATIVE = 1.5  # a side longer or shorter by more than this factor is told


def note_of_size(width: int, height: int, config: LiDiTConfig) -> str:
    """What is to be said of a width and height in pixels; "" where they are near the native."""
    native, grain = config.native_size, config.patch * config.latent.downsampling
    smallest, largest = native / FAR_FROM_NATIVE, native * FAR_FROM_NATIVE
    if smallest <= min(width, height) and max(width, height) <= largest:
        return ""
    return (
        f"size {width}x{height} is far from {native}, which this model was trained at, so that "
        "objects may come out too large, too small or too many; choose sides of "
        f"{math.ceil(smallest / grain) * grain} to {int(largest // grain) * grain} pixels"
    )
