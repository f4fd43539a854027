"""What a picture shows, and whether it is what the caption asks for (after GenEval, 2310.11513).

`python -m lidit_stickers.scorer.selftest` measures the scorer itself on drawn scenes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields

import numpy as np

from ..scenes.kinds import KINDS
from ..scenes.request import Item, SceneRequest
from ..scenes.scenes import Box
from .matching import Match, match
from .segments import (
    MIN_AREA,
    SIDE,
    THRESHOLDS,
    Background,
    Part,
    find_background,
    foreground,
    part_tree,
    standard,
)

ACCEPT = 0.88  # a part with less evidence for any glyph is an unknown object
RELATION_GAP = 0.12  # distance of centres along the axis that a relation needs, picture sides
OFF_MIDDLE = 0.15  # distance from the picture's middle, picture sides, that is still the middle
TESTED: dict[str, tuple[str, ...]] = {  # what categories test beside the objects
    **dict.fromkeys(("single object", "two objects", "counting", "unseen synonym"), ()),
    "position": ("relation",),
    "colour": ("colour",),
    "colour attribution": ("colour",),
}
_CERTAIN = 0.93  # mean score above which no other segmentation is tried
BIG, SMALL = 0.60, 0.42  # a lone big (small) object is longer (shorter) than this, picture sides


@dataclass(frozen=True)
class FoundObject:
    """One object in a picture; `kind` is None if it resembles no glyph."""

    kind: str | None
    colour: str | None
    box: Box  # left, top, right, bottom in [0, 1]
    evidence: float  # see `matching.Match`

    @property
    def centre(self) -> tuple[float, float]:
        """Middle of the box."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2

    @property
    def side(self) -> float:
        """Longer side of the box."""
        return max(self.box[2] - self.box[0], self.box[3] - self.box[1])


@dataclass(frozen=True)
class FoundScene:
    """What a picture shows."""

    background: str | None
    objects: tuple[FoundObject, ...]


@dataclass(frozen=True)
class SceneVerdict:
    """What holds of the things asked for; what was not asked for holds."""

    objects: bool  # exactly the kinds asked for, each in the right number, and nothing else
    background: bool
    colour: bool
    relation: bool
    size: bool
    place: bool

    @property
    def all(self) -> bool:
        """Whether the whole request is met."""
        return all(getattr(self, field.name) for field in fields(self))

    def category(self, name: str) -> bool:
        """The verdict of a category: what it tests of its own, and that the objects are there.

        One without a test of its own tests the whole request.
        """
        if name == "background":
            return self.background
        if name not in TESTED:
            return self.all
        return self.objects and all(getattr(self, field) for field in TESTED[name])


def read(
    picture: np.ndarray, accept: float = ACCEPT, kinds: tuple[str, ...] = tuple(KINDS)
) -> FoundScene:
    """Finds the background and the objects of a square (S, S, 3) uint8 picture, S in 64..256.

    Args:
        accept: evidence below which an object is unknown; 0 names each after the glyph that it
            resembles most, however little (a forced choice).
        kinds: those that an object may be.
    """
    picture = standard(picture)
    ground = find_background(picture)
    best = (-1.0, ())
    for threshold in THRESHOLDS:
        found = _read_at(picture, ground, threshold, accept, kinds)
        best = max(best, found, key=lambda scene: scene[0])
        if best[0] > _CERTAIN:
            break
    return FoundScene(ground.name, best[1])


def _read_at(
    picture: np.ndarray, ground: Background, threshold: int, accept: float, kinds: tuple[str, ...]
) -> tuple[float, tuple[FoundObject, ...]]:
    """Mean score over the foreground, and the objects, with one segmentation threshold."""
    mask = foreground(picture, ground.colour, threshold)
    parts = part_tree(mask)
    chosen = [pick for part in parts for pick in _best_cut(picture, part, mask, ground, kinds)[1]]
    total = sum(part.area for part in parts)
    quality = sum(m.score * part.area for part, m in chosen) / total if total else 0.0
    large = [(part, m) for part, m in chosen if part.area >= MIN_AREA * SIDE * SIDE]
    objects = tuple(_found(part, m, accept) for part, m in large)
    return quality, objects


def _best_cut(
    picture: np.ndarray, part: Part, mask: np.ndarray, ground: Background, kinds: tuple[str, ...]
) -> tuple[float, list[tuple[Part, Match]]]:
    """The division of a part into objects that resembles glyphs most: itself, or its children's."""
    if part.area < MIN_AREA * SIDE * SIDE:
        return 0.0, []
    whole = match(picture, part, mask & ~part.mask, ground, kinds)
    cut = whole.score * part.area, [(part, whole)]
    if not part.children:
        return cut
    finer = [_best_cut(picture, child, mask, ground, kinds) for child in part.children]
    total = sum(value for value, _ in finer)
    return (total, [pick for _, picks in finer for pick in picks]) if total > cut[0] else cut


def _found(part: Part, best: Match, accept: float) -> FoundObject:
    left, top, right, bottom = (edge / SIDE for edge in part.box)
    known = best.evidence >= accept
    kind, colour = (best.kind, best.colour) if known else (None, None)
    return FoundObject(kind, colour, (left, top, right, bottom), best.evidence)


def judge(scene: FoundScene, request: SceneRequest) -> SceneVerdict:
    """Whether a scene is what the request asks for."""
    groups = [[o for o in scene.objects if o.kind == item.kind] for item in request.items]
    wanted = Counter(item.kind for item in request.items for _ in range(item.count))
    present = all(groups)
    return SceneVerdict(
        objects=Counter(o.kind for o in scene.objects) == wanted,
        background=request.background in (None, scene.background),
        colour=present and all(map(coloured, request.items, groups)),
        relation=request.relation is None or (present and related(request.relation, *groups)),
        size=present and sized(request.items, groups),
        place=request.place is None or (present and placed(request.place, groups[0])),
    )


def coloured(item: Item, group: list[FoundObject]) -> bool:
    return item.colour is None or all(found.colour == item.colour for found in group)


def related(relation: str, first: list[FoundObject], second: list[FoundObject]) -> bool:
    """Every object of the first group lies clearly on its side of every one of the second."""
    axis = 0 if relation in ("left of", "right of") else 1
    low, high = (first, second) if relation in ("left of", "above") else (second, first)
    edge = max(found.centre[axis] for found in low)
    return min(found.centre[axis] for found in high) - edge >= RELATION_GAP


def placed(place: str, group: list[FoundObject]) -> bool:
    """Whether every object's centre lies where it was asked for."""
    return all(_is_at(place, *found.centre) for found in group)


def _is_at(place: str, x: float, y: float) -> bool:
    if place == "middle":
        return max(abs(x - 0.5), abs(y - 0.5)) < OFF_MIDDLE
    along = x if place in ("left", "right") else y
    return (along if place in ("left", "top") else 1 - along) < 0.5 - OFF_MIDDLE / 2


def sized(items: tuple[Item, ...], groups: list[list[FoundObject]]) -> bool:
    """Sizes that were asked for: against each other where two differ, else in the picture."""
    sides = [float(np.mean([found.side for found in group])) for group in groups]
    if len(items) == 1 and items[0].count == 1:
        return {None: True, "big": sides[0] > BIG, "small": sides[0] < SMALL}[items[0].size]
    big = [s for s, item in zip(sides, items, strict=True) if item.size == "big"]
    small = [s for s, item in zip(sides, items, strict=True) if item.size == "small"]
    return not big or not small or min(big) > max(small)


def describe(scene: FoundScene) -> str:
    """The scene in a few words: "2 cat, red car, ? on blue"."""
    names = Counter(
        " ".join(filter(None, (o.colour, o.kind))) if o.kind else "?" for o in scene.objects
    )
    objects = ", ".join(f"{n} {name}" if n > 1 else name for name, n in names.items())
    return f"{objects or 'nothing'} on {scene.background or '?'}"
