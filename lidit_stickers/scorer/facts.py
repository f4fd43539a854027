"""The facts of a request, each by itself, as DPG-Bench counts them (Hu et al. 2024, 2403.05135)."""

from __future__ import annotations

from collections.abc import Iterator

from ..scenes.request import SIZES, Item, SceneRequest
from .scorer import FoundObject, FoundScene, coloured, placed, related, sized


def facts(scene: FoundScene, request: SceneRequest) -> dict[str, bool]:
    """Each fact that the request states, and whether the scene holds it.

    A fact on something that is not there does not hold: its number, its colour, its place.
    """
    return dict(_facts(scene, request))


def count_facts(request: SceneRequest) -> int:
    """How many facts a request states."""
    return len(facts(FoundScene(None, ()), request))


def _facts(scene: FoundScene, request: SceneRequest) -> Iterator[tuple[str, bool]]:
    groups = [[o for o in scene.objects if o.kind == item.kind] for item in request.items]
    for item, group in zip(request.items, groups, strict=True):
        yield from _facts_of(item, group)
    present = all(groups)
    if request.relation is not None:
        yield request.relation, present and related(request.relation, *groups)
    if _says_sizes(request):
        yield "sizes", present and sized(request.items, groups)
    if request.place is not None:
        yield request.place, present and placed(request.place, groups[0])
    if request.background is not None:
        yield f"{request.background} background", request.background == scene.background


def _facts_of(item: Item, group: list[FoundObject]) -> Iterator[tuple[str, bool]]:
    yield item.kind, bool(group)
    if item.count > 1:
        yield f"{item.count} {item.kind}", len(group) == item.count
    if item.colour is not None:
        yield f"{item.colour} {item.kind}", bool(group) and coloured(item, group)


def _says_sizes(request: SceneRequest) -> bool:
    """Whether sizes are said that can be held against something: each other, or the picture."""
    said = {item.size for item in request.items}
    lone = len(request.items) == 1 and request.items[0].count == 1
    return said >= set(SIZES) or (lone and None not in said)
