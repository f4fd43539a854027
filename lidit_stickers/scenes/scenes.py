"""Scenes: a random placement that meets a structured request, and its picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from lidit_core.errors import check

from .glyphs import aspect, sized_glyph
from .heldout import allowed_backgrounds
from .kinds import BACKGROUNDS, KNOWN_KINDS
from .request import Item, SceneRequest

MARGIN = 0.02  # kept free on every side of a cell, so objects are 2 * MARGIN apart
_SIDES = {1: (0.45, 0.65), 2: (0.35, 0.42), 3: (0.30, 0.36), 4: (0.30, 0.36)}
_SMALL = {1: (0.26, 0.34), 2: (0.22, 0.27), 3: (0.20, 0.24), 4: (0.20, 0.24)}
_BIG = {1: (0.74, 0.86), 2: (0.43, 0.46), 3: (0.40, 0.44), 4: (0.40, 0.44)}
_LONE = {  # cell of a lone object by the place that is asked for
    None: (0.05, 0.05, 0.95, 0.95),
    "middle": (0.15, 0.15, 0.85, 0.85),
    "left": (0.0, 0.05, 0.62, 0.95),
    "right": (0.38, 0.05, 1.0, 0.95),
    "top": (0.05, 0.0, 0.95, 0.62),
    "bottom": (0.05, 0.38, 0.95, 1.0),
}

Box = tuple[float, float, float, float]  # left, top, right, bottom; x to the right, y down


@dataclass(frozen=True)
class Sprite:
    """One placed object: centre and longer side as fractions of the picture side."""

    kind: str
    colour: str | None
    x: float
    y: float
    side: float

    @property
    def box(self) -> Box:
        """Bounding box in [0, 1]."""
        ratio = aspect(self.kind)
        half_width = self.side * min(1.0, ratio) / 2
        half_height = self.side * min(1.0, 1 / ratio) / 2
        return (
            self.x - half_width,
            self.y - half_height,
            self.x + half_width,
            self.y + half_height,
        )


@dataclass(frozen=True)
class Scene:
    """A drawn scene, free of resolution."""

    sprites: tuple[Sprite, ...]
    background: str


def place(request: SceneRequest, rng: np.random.Generator) -> Scene:
    """A random scene that meets the request: no overlap, relations clearly met.

    A background that the request leaves open is none that the held-out rule forbids.
    """
    items = [item for item in request.items for _ in range(item.count)]
    cells = _cells(request, rng)
    sprites = tuple(
        _sprite(item, cell, len(items), rng) for item, cell in zip(items, cells, strict=True)
    )
    choices = (request.background,) if request.background else allowed_backgrounds(request.kinds)
    background = choices[int(rng.integers(len(choices)))]
    return Scene(sprites, background)


def _sprite(item: Item, cell: Box, total: int, rng: np.random.Generator) -> Sprite:
    """An object of random size at a random place inside its cell."""
    low, high = {None: _SIDES, "small": _SMALL, "big": _BIG}[item.size][total]
    side = rng.uniform(low, high)
    ratio = aspect(item.kind)
    unit_width, unit_height = min(1.0, ratio), min(1.0, 1 / ratio)
    room_x, room_y = cell[2] - cell[0] - 2 * MARGIN, cell[3] - cell[1] - 2 * MARGIN
    side = min(side, room_x / unit_width, room_y / unit_height)
    slack_x, slack_y = room_x - side * unit_width, room_y - side * unit_height
    x = (cell[0] + cell[2]) / 2 + slack_x * rng.uniform(-0.5, 0.5)
    y = (cell[1] + cell[3]) / 2 + slack_y * rng.uniform(-0.5, 0.5)
    return Sprite(item.kind, item.colour, float(x), float(y), float(side))


def _cells(request: SceneRequest, rng: np.random.Generator) -> list[Box]:
    """One disjoint cell per object, in the order of the items."""
    if request.relation is not None:
        return _related_cells(request)
    if request.total == 1:
        return [_LONE[request.place]]
    cells = _free_cells(request.total, rng)
    order = rng.permutation(len(cells))
    return [cells[i] for i in order]


def _related_cells(request: SceneRequest) -> list[Box]:
    """Each group gets one half of the picture; a group of several is spread across its half."""
    first_before = request.relation in ("left of", "above")
    cells: list[Box] = []
    for index, item in enumerate(request.items):
        start = 0.0 if (index == 0) == first_before else 0.5
        cuts = np.linspace(0.0, 1.0, item.count + 1) if item.count > 1 else np.array([0.2, 0.8])
        for low, high in zip(cuts[:-1], cuts[1:], strict=True):
            cells.append((start, float(low), start + 0.5, float(high)))
    if request.relation in ("above", "below"):
        cells = [(top, left, bottom, right) for left, top, right, bottom in cells]
    return cells


def _free_cells(total: int, rng: np.random.Generator) -> list[Box]:
    """Cells of 2 to 4 objects without a relation, in a random one of a few arrangements."""
    if total == 2:
        row = [(0.0, 0.2, 0.5, 0.8), (0.5, 0.2, 1.0, 0.8)]
        diagonal = [(0.0, 0.0, 0.5, 0.5), (0.5, 0.5, 1.0, 1.0)]
        cells = [row, diagonal][int(rng.random() < 0.2)]
    elif total == 3:
        cells = [(0.0, 0.0, 0.5, 0.5), (0.5, 0.0, 1.0, 0.5), (0.2, 0.5, 0.8, 1.0)]
    else:
        cells = [(x, y, x + 0.5, y + 0.5) for y in (0.0, 0.5) for x in (0.0, 0.5)]
    if rng.random() < 0.3:
        cells = [(top, left, bottom, right) for left, top, right, bottom in cells]
    if rng.random() < 0.5:
        cells = [(left, 1 - bottom, right, 1 - top) for left, top, right, bottom in cells]
    return cells


def content(scene: Scene, patches: int) -> np.ndarray:
    """What lies at each patch's middle, (patches, patches) uint8; 0 = background.

    Kinds count from 1 in the order of KNOWN_KINDS; an object counts as its bounding box.
    """
    middles = (np.arange(patches) + 0.5) / patches
    result = np.zeros((patches, patches), np.uint8)
    for sprite in scene.sprites:
        left, top, right, bottom = sprite.box
        rows, columns = (top < middles) & (middles < bottom), (left < middles) & (middles < right)
        result[np.ix_(rows, columns)] = 1 + list(KNOWN_KINDS).index(sprite.kind)
    return result


def render(scene: Scene, size: int, supersample: int = 2) -> np.ndarray:
    """Draw a scene, (size, size, 3) uint8 RGB: `supersample` times as large and averaged down.

    Raises:
        LiDiTError: there is no such size.
    """
    check(size >= 1, f"a scene of {size} pixels was asked for; expected 1 or more")
    full = size * supersample
    canvas = Image.new("RGB", (full, full), BACKGROUNDS[scene.background])
    for sprite in scene.sprites:
        picture = sized_glyph(sprite.kind, sprite.colour, max(2, round(sprite.side * full)))
        left = round(sprite.x * full - picture.width / 2)
        top = round(sprite.y * full - picture.height / 2)
        canvas.paste(picture, (left, top), picture)
    if supersample > 1:
        canvas = canvas.reduce(supersample)
    return np.asarray(canvas)
