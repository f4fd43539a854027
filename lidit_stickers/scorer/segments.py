"""Segmentation of a scene: its plain background and the tree of parts that stand out from it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageFilter
from scipy import ndimage

from ..scenes.kinds import BACKGROUNDS

SIDE = 128  # every picture is brought to this size first, pixels
THRESHOLDS = (14, 32)  # largest channel difference from the background that is still background
RADII = (1, 2, 4, 7)  # parts nearer than twice this are one object, on trial, pixels
MIN_AREA = 0.003  # smaller parts are dirt, fraction of the picture
_SPECK, _MAX_PARTS = 3, 40  # pixels; components
_NEAR = 24  # a pixel this near to a background colour counts for it, largest channel difference
_NAMED = 30  # a background farther than this from all names has none
_PALETTE = np.array(list(BACKGROUNDS.values()), np.int16)  # (6, 3)


@dataclass(frozen=True, eq=False)
class Background:
    """The plain background found in a picture."""

    name: str | None  # None: no pastel of the list
    nearest: str
    colour: np.ndarray  # (3,) float32, 0..255


@dataclass(eq=False)
class Part:
    """A set of foreground pixels that may be one object, and the finer parts it consists of."""

    mask: np.ndarray  # (SIDE, SIDE) bool
    box: tuple[int, int, int, int]  # left, top, right, bottom, pixels
    area: int
    children: list[Part] = field(default_factory=list)


def standard(picture: np.ndarray) -> np.ndarray:
    """Any square uint8 RGB picture as (SIDE, SIDE, 3) uint8."""
    if picture.shape[:2] == (SIDE, SIDE):
        return picture
    return np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def find_background(picture: np.ndarray) -> Background:
    """The background of a standard picture: the pastel most pixels are near, else the border."""
    pixels = picture.reshape(-1, 3).astype(np.int16)
    near = np.stack([_farthest(pixels, pastel) < _NEAR for pastel in _PALETTE], 1)  # (n, 6)
    shares = near.mean(0)
    best = int(shares.argmax())
    names = tuple(BACKGROUNDS)
    if shares[best] > 0.15:
        colour = np.median(pixels[near[:, best]], axis=0).astype(np.float32)
        return Background(names[best], names[best], colour)
    border = np.concatenate([picture[:3], picture[-3:], picture[:, :3].swapaxes(0, 1)])
    colour = np.median(border.reshape(-1, 3), axis=0).astype(np.float32)
    distances = np.abs(colour - _PALETTE).max(-1)
    nearest = names[int(distances.argmin())]
    return Background(nearest if distances.min() < _NAMED else None, nearest, colour)


def foreground(picture: np.ndarray, colour: np.ndarray, threshold: int) -> np.ndarray:
    """Mark pixels that differ from the background, fine noise smoothed away: (H, W) bool."""
    soft = Image.fromarray(picture).filter(ImageFilter.GaussianBlur(0.7))
    return _farthest(np.asarray(soft, np.float32), colour) > threshold


def _farthest(pixels: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """The largest channel difference from the colour, (..., 3) -> (...)."""
    red, green, blue = (np.abs(pixels[..., i] - colour[i]) for i in range(3))
    return np.maximum(np.maximum(red, green), blue)


def part_tree(mask: np.ndarray) -> list[Part]:
    """The parts at the widest radius, each with its finer parts down to single components."""
    labels = components(mask)
    areas = np.bincount(labels.ravel())[1:]
    kept = [i + 1 for i in np.argsort(-areas, kind="stable")[:_MAX_PARTS] if areas[i] >= _SPECK]
    parts = [_part(labels == label, []) for label in kept]
    for radius in RADII:
        if len(parts) < 2:
            break
        grown = components(_grown(np.logical_or.reduce([p.mask for p in parts]), radius))
        groups: dict[int, list[Part]] = {}
        for part in parts:
            groups.setdefault(int(grown[part.mask][0]), []).append(part)
        parts = [_merged(group) for group in groups.values()]
    return parts


def _grown(mask: np.ndarray, radius: int) -> np.ndarray:
    """The mask widened by `radius` pixels along both axes."""
    for _ in range(2):
        wide = mask.copy()
        for step in range(1, radius + 1):
            wide[step:] |= mask[:-step]
            wide[:-step] |= mask[step:]
        mask = wide.T
    return mask


def _merged(parts: list[Part]) -> Part:
    if len(parts) == 1:
        return parts[0]
    return _part(np.logical_or.reduce([p.mask for p in parts]), parts)


def _part(mask: np.ndarray, children: list[Part]) -> Part:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return Part(mask, box, int(mask.sum()), children)


def components(mask: np.ndarray) -> np.ndarray:
    """8-connected components of an (H, W) bool mask: int32 labels, 0 outside, 1.. inside."""
    labels = np.zeros(mask.shape, np.int32)
    ndimage.label(mask, np.ones((3, 3), bool), output=labels)
    return labels
