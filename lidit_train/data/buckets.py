"""Shapes of one area that pictures are brought to, so that a batch holds one shape (paper)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from ..recipe import Buckets


def bucket_sizes(resolution: int, grain: int, buckets: Buckets) -> list[tuple[int, int]]:
    """The (width, height) of every shape, from the tallest to the widest, the square among them.

    Args:
        resolution: side of the square, pixels; the other shapes have about its area.
        grain: pixels that every side is a multiple of: the model's patch in the picture.
    """
    square = max(grain, round(resolution / grain) * grain)
    step = min(buckets.step, resolution // 4)
    step = max(grain, step // grain * grain)
    wide = []
    for width in range(square + step, int(square * buckets.longest) + 1, step):
        height = square - round((square - square**2 / width) / step) * step
        if 0 < height < width <= height * buckets.longest:
            wide.append((width, height))
    return [(h, w) for w, h in reversed(wide)] + [(square, square)] + wide


def nearest_bucket(sizes: np.ndarray, buckets: Sequence[tuple[int, int]]) -> np.ndarray:
    """The place of the bucket whose shape is nearest, by the logarithm of width / height.

    Args:
        sizes: (N, 2) width and height; (0, 0), which can be drawn at any size, is a square.
    Returns:
        (N,) int64.
    """
    shapes = np.array(buckets, np.float64)
    ratios = np.log(shapes[:, 0] / shapes[:, 1])
    order = np.argsort(ratios, kind="stable")
    between = (ratios[order][1:] + ratios[order][:-1]) / 2
    width, height = np.maximum(np.asarray(sizes), 1).T
    return order[np.searchsorted(between, np.log(width / height))]


def fit(
    picture: Image.Image,
    size: tuple[int, int],
    resampling: Image.Resampling = Image.Resampling.LANCZOS,
) -> Image.Image:
    """Scale a picture until it covers a bucket, and cut what sticks out evenly on both sides."""
    if picture.size == size:
        return picture
    scale = min(picture.width / size[0], picture.height / size[1])
    left = max(0.0, picture.width - size[0] * scale) / 2
    top = max(0.0, picture.height - size[1] * scale) / 2
    box = (left, top, picture.width - left, picture.height - top)
    return picture.resize(size, resampling, box=box, reducing_gap=3.0)
