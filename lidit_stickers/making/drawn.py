"""A scene as a trainer reads it."""

from __future__ import annotations

from torch import Tensor

from lidit_train.data.latent_cache import read_picture

from ..source import StickerSource


def drawn_scene(source: StickerSource, index: int, size: tuple[int, int]) -> Tensor:
    """Draw a scene as (3, H, W) uint8 at a size, (width, height)."""
    picture = read_picture(source, index, size)
    assert picture is not None  # only a file can be one that cannot be decoded
    return picture
