"""Comparison of a part of a picture with every glyph in every colour."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from ..scenes.glyphs import sized_glyph
from ..scenes.kinds import BACKGROUNDS, KNOWN_KINDS
from .segments import SIDE, THRESHOLDS, Background, Part, foreground

CELL = 32  # parts and glyphs are compared at this size, pixels
TEMPLATE_SIDE = 64  # size at which the glyphs are drawn for the comparison, pixels
BANDS = ((1.2, 0.3), (3.0, 0.5), (None, 0.2))  # finer than this (pixels of the cell), weight
ASPECT_SLACK, ASPECT_COST = 0.12, 0.6  # in log(width / height)
_STEP = 0.06  # the box is also tried with one side moved by this fraction


@dataclass(frozen=True)
class Match:
    """The glyph that a part resembles most."""

    kind: str
    colour: str | None  # None: as in the font, and the font's colour has no name
    score: float  # similarity, 1 is equality
    margin: float  # what the score is above that of the best other kind

    @property
    def evidence(self) -> float:
        """The nearness to one glyph and to no other; about 1.4 when drawn, 0.6 for other things."""
        return self.score + self.margin


@dataclass(frozen=True, eq=False)
class _Templates:
    """The glyphs of some kinds before one background."""

    names: tuple[tuple[str, str | None], ...]  # (n,) kind and colour
    kind_ids: np.ndarray  # (n,)
    pixels: np.ndarray  # (n, CELL * CELL * 3) float32, difference from the background
    features: np.ndarray  # (n, 3 * CELL * CELL * 3) float32 unit vectors
    aspects: np.ndarray  # (n,) log(width / height)


def _features(cells: np.ndarray) -> np.ndarray:
    """Turn differences (n, CELL, CELL, 3) from the background into unit vectors, band by band.

    Each band is normalised by itself, so that a flat blob of the right colour, which has none of
    the glyph's fine structure, scores low, and a soft picture still scores well.
    """
    bands, rest = [], cells
    for sigma, weight in BANDS:
        soft = np.zeros_like(cells) if sigma is None else _blur(cells, sigma)
        band = (rest - soft).reshape(len(cells), -1)
        length = np.maximum(np.linalg.norm(band, axis=1, keepdims=True), 1e-3)
        bands.append(weight**0.5 * band / length)
        rest = soft
    return np.concatenate(bands, axis=1)


@lru_cache(maxsize=None)
def _kernel(sigma: float) -> np.ndarray:
    """The matrix (CELL, CELL) of a Gaussian blur along one axis."""
    distance = np.arange(CELL)[:, None] - np.arange(CELL)
    weights = np.exp(-0.5 * (distance / sigma) ** 2)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _blur(cells: np.ndarray, sigma: float) -> np.ndarray:
    """Blur cells (n, CELL, CELL, 3) along both axes."""
    for _ in range(2):
        rows = _kernel(sigma) @ cells.reshape(len(cells), CELL, -1)
        cells = rows.reshape(-1, CELL, CELL, 3).swapaxes(1, 2)
    return cells


def _cell(picture: Image.Image, box: tuple[float, float, float, float]) -> np.ndarray:
    """Squeeze the box of the picture into a cell, (CELL, CELL, 3) float32."""
    small = picture.resize((CELL, CELL), Image.Resampling.BILINEAR, box=box)
    return np.asarray(small, np.float32)


@lru_cache(maxsize=2 * len(BACKGROUNDS))  # with and without a newcomer
def _templates(background: str, kinds: tuple[str, ...]) -> _Templates:
    rgb = np.array(BACKGROUNDS[background], np.float32)
    looks = [(kind, colour) for kind in kinds for colour in _looks(kind)]
    drawn = [_template(kind, colour, rgb) for kind, colour in looks]
    cells = np.stack([cell for cell, _ in drawn])
    order = {kind: i for i, kind in enumerate(kinds)}
    return _Templates(
        names=tuple((kind, colour or KNOWN_KINDS[kind].natural) for kind, colour in looks),
        kind_ids=np.array([order[kind] for kind, _ in looks]),
        pixels=cells.reshape(len(cells), -1),
        features=_features(cells),
        aspects=np.array([aspect for _, aspect in drawn]),
    )


def _looks(kind: str) -> tuple[str | None, ...]:
    """The different drawings of a kind: the font's and the recoloured ones."""
    record = KNOWN_KINDS[kind]
    return (None, *(colour for colour in record.colours if colour != record.natural))


def _template(kind: str, colour: str | None, rgb: np.ndarray) -> tuple[np.ndarray, float]:
    """One glyph cut out as a part would be: difference from the background, log aspect."""
    glyph = sized_glyph(kind, colour, TEMPLATE_SIDE)
    side = TEMPLATE_SIDE + 8
    canvas = Image.new("RGB", (side, side), tuple(int(c) for c in rgb))
    canvas.paste(glyph, (4, 4), glyph)
    mask = foreground(np.asarray(canvas), rgb, THRESHOLDS[0])
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return _cell(canvas, box) - rgb, float(np.log((box[2] - box[0]) / (box[3] - box[1])))


def match(
    picture: np.ndarray,
    part: Part,
    others: np.ndarray,
    ground: Background,
    kinds: tuple[str, ...],
) -> Match:
    """The best match of a part among the glyphs of `kinds`.

    Args:
        picture: (SIDE, SIDE, 3) uint8.
        others: (SIDE, SIDE) bool, foreground that does not belong to the part; painted over.
    """
    templates = _templates(ground.nearest, kinds)
    clean = picture.copy()
    clean[others] = np.rint(ground.colour)
    image = Image.fromarray(clean)
    boxes = _boxes(part.box)
    cells = np.stack([_cell(image, box) for box in boxes]) - ground.colour
    scores = _features(cells) @ templates.features.T
    aspects = np.array([np.log((b[2] - b[0]) / (b[3] - b[1])) for b in boxes])
    misfit = np.abs(aspects[:, None] - templates.aspects) - ASPECT_SLACK
    scores -= ASPECT_COST * np.maximum(misfit, 0)
    row, column = np.unravel_index(int(scores.argmax()), scores.shape)
    same = templates.kind_ids == templates.kind_ids[column]
    nearest = np.abs(templates.pixels[same] - cells[row].reshape(-1)).sum(1).argmin()
    kind, colour = templates.names[np.flatnonzero(same)[nearest]]
    score, second = float(scores[row, column]), float(scores[:, ~same].max())
    return Match(kind, colour, score, score - second)


def _boxes(box: tuple[int, int, int, int]) -> list[tuple[float, float, float, float]]:
    """The box itself and with each side moved out or in a little, inside the picture."""
    step = (_STEP * (box[2] - box[0]), _STEP * (box[3] - box[1]))
    left, top, right, bottom = map(float, box)
    boxes = [(left, top, right, bottom)]
    for side in range(4):
        for sign in (-1, 1):
            moved = [left, top, right, bottom]
            moved[side] = min(max(moved[side] + sign * step[side % 2], 0.0), float(SIDE))
            boxes.append((moved[0], moved[1], moved[2], moved[3]))
    return [b for b in boxes if b[2] - b[0] > 1 and b[3] - b[1] > 1] or [(0.0, 0.0, 1.0, 1.0)]
