"""Training captions: a written, finite grammar that covers kinds, colours, counts and relations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Generic, TypeVar

from lidit_core.errors import LiDiTError

from . import chinese, english
from .heldout import is_held_out
from .kinds import BACKGROUNDS, KINDS
from .request import RELATIONS, SIZES, Item, SceneRequest

T = TypeVar("T")
BACKGROUND_SHARE = 0.6  # of captions that name the background
COLOUR_SHARE = 0.25  # of recolourable objects in pairs and singles that get a colour
WORDINGS: dict[str, Callable[[SceneRequest, Random], str]] = {
    "en": english.word,
    "zh": chinese.word,
}


@dataclass(frozen=True)
class Caption:
    """A text and what it asks for."""

    text: str
    language: str  # "en" or "zh"
    request: SceneRequest
    category: str  # which part of the grammar, or of the evaluation, it belongs to


class _Deck(Generic[T]):
    """Draws every member once in random order before any comes again."""

    def __init__(self, members: Sequence[T], rng: Random) -> None:
        self.members, self.rng, self.rest = list(members), rng, []

    def draw(self) -> T:
        if not self.rest:
            self.rest = self.rng.sample(self.members, len(self.members))
        return self.rest.pop()


class _Requests:
    """Random requests of each category, with evenly used kinds, colours, counts and relations."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.kinds = _Deck(tuple(KINDS), rng)
        self.counts = _Deck([(kind, count) for kind in KINDS for count in (2, 3, 4)], rng)
        self.colours = _Deck([(k.key, c) for k in KINDS.values() for c in k.colours], rng)
        self.relations = _Deck(RELATIONS, rng)
        self.backgrounds = _Deck(tuple(BACKGROUNDS), rng)

    def background(self) -> str | None:
        return self.backgrounds.draw() if self.rng.random() < BACKGROUND_SHARE else None

    def plain(self, size: str | None = None) -> Item:
        """One object, coloured now and then."""
        kind = self.kinds.draw()
        colours = KINDS[kind].colours
        coloured = bool(colours) and self.rng.random() < COLOUR_SHARE
        return Item(kind, self.rng.choice(colours) if coloured else None, 1, size)

    def single(self) -> SceneRequest:
        return SceneRequest((self.plain(),), None, self.background())

    def pair(self) -> SceneRequest:
        return SceneRequest((self.plain(), self.plain()), None, self.background())

    def relation(self) -> SceneRequest:
        items = (self.plain(), self.plain())
        return SceneRequest(items, self.relations.draw(), self.background())

    def colour(self) -> SceneRequest:
        """A coloured object: alone, beside another, or several."""
        kind, colour = self.colours.draw()
        chance = self.rng.random()
        if chance < 0.15:
            item = Item(kind, colour, self.rng.choice((2, 3)))
            return SceneRequest((item,), None, self.background())
        if chance < 0.65:
            return SceneRequest((Item(kind, colour),), None, self.background())
        items = self.rng.sample((Item(kind, colour), self.plain()), 2)
        return SceneRequest(tuple(items), self.relations.draw(), self.background())

    def count(self) -> SceneRequest:
        """Two to four of a kind; now and then two of them with one of another kind."""
        kind, count = self.counts.draw()
        chance = self.rng.random()
        if chance < 0.75:
            return SceneRequest((Item(kind, None, count),), None, self.background())
        items = tuple(self.rng.sample((Item(kind, None, 2), self.plain()), 2))
        return SceneRequest(items, self.relations.draw() if chance < 0.85 else None)

    def size(self) -> SceneRequest:
        """A big or small object, alone or with one of the other size."""
        first, second = self.rng.sample(SIZES, 2)
        if self.rng.random() < 0.5:
            return SceneRequest((self.plain(first),), None, self.background())
        items = (self.plain(first), self.plain(second))
        relation = self.relations.draw() if self.rng.random() < 0.5 else None
        return SceneRequest(items, relation, self.background())

    def listing(self) -> SceneRequest:
        """Three different objects."""
        items = tuple(self.plain() for _ in range(3))
        return SceneRequest(items, None, self.background())


CATEGORIES = {  # name -> share of the captions
    "single": 0.22,
    "relation": 0.25,
    "pair": 0.13,
    "count": 0.18,
    "colour": 0.14,
    "size": 0.05,
    "listing": 0.03,
}


def captions(n: int, seed: int = 0, language: str = "en") -> list[Caption]:
    """`n` different training captions, none of them held out; the same for the same arguments.

    Args:
        language: "en" or "zh".

    Raises:
        LiDiTError: an unknown language, or more captions than the grammar easily gives.
    """
    if language not in WORDINGS:
        raise LiDiTError(f"language {language!r}: expected one of {tuple(WORDINGS)}; pick one")
    rng = Random(f"{seed}/{language}")
    requests, found = _Requests(rng), {}
    for _ in range(20 * n + 1000):
        if len(found) == n:
            return list(found.values())
        category = rng.choices(tuple(CATEGORIES), tuple(CATEGORIES.values()))[0]
        request = getattr(requests, category)()
        if _is_plain(request) and not is_held_out(request):
            text = WORDINGS[language](request, rng)
            found.setdefault(text, Caption(text, language, request, category))
    raise LiDiTError(f"{n} captions: expected at most about {len(found)}; ask for fewer")


def _is_plain(request: SceneRequest) -> bool:
    """Whether no two groups of the scene are of one kind."""
    return len(set(request.kinds)) == len(request.kinds)
