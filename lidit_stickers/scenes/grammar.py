"""Training captions: a written grammar that covers kinds, colours, counts, places and relations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Generic, TypeVar

from lidit_core.errors import LiDiTError

from . import chinese, english
from .heldout import is_held_out
from .kinds import BACKGROUNDS, KINDS
from .request import PLACES, RELATIONS, SIZES, Item, SceneRequest
from .wordings import chinese as wide_chinese
from .wordings import wide

T = TypeVar("T")
BACKGROUND_SHARE = 0.6  # of captions that name the background
COLOUR_SHARE = 0.25  # of recolourable objects in pairs and singles that get a colour
PLAIN_SHARE = 0.3  # of captions in the few wordings of the fixed evaluation prompts
TRIES = 1000  # requests of a category, before it is said to be exhausted
Wording = Callable[[SceneRequest, Random], str]
WORDINGS: dict[str, tuple[Wording | None, Wording]] = {  # language -> plain and wide
    "en": (english.word, wide.word),
    "zh": (chinese.word, wide_chinese.word),
    "mixed": (None, wide_chinese.mixed),
}


@dataclass(frozen=True)
class Caption:
    """A text and what it asks for."""

    text: str
    language: str  # one of WORDINGS
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
        self.places = _Deck(PLACES, rng)

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

    def four(self) -> SceneRequest:
        """Four different objects."""
        items = tuple(self.plain() for _ in range(4))
        return SceneRequest(items, None, self.background())

    def colours_together(self) -> SceneRequest:
        """Two to four coloured objects of different kinds."""
        number = self.rng.choices((2, 3, 4), (0.5, 0.3, 0.2))[0]
        items = tuple(Item(*self.colours.draw()) for _ in range(number))
        related = number == 2 and self.rng.random() < 0.6
        relation = self.relations.draw() if related else None
        return SceneRequest(items, relation, self.background())

    def place(self) -> SceneRequest:
        """One object at a place of the picture."""
        size = self.rng.choice((None, None, "small"))
        return SceneRequest((self.plain(size),), None, self.background(), self.places.draw())


CATEGORIES = {  # name -> share of the captions
    "single": 0.15,
    "relation": 0.20,
    "pair": 0.09,
    "count": 0.16,
    "colour": 0.10,
    "colours_together": 0.15,
    "size": 0.04,
    "listing": 0.02,
    "four": 0.05,
    "place": 0.04,
}


def captions(n: int, seed: int = 0, language: str = "en") -> list[Caption]:
    """Make `n` different training captions, none held out; the same for the same arguments.

    A longer list begins with the shorter one.

    Args:
        language: "en", "zh", or "mixed" for both in a sentence.

    Raises:
        LiDiTError: an unknown language, or more captions than the grammar easily gives.
    """
    if language not in WORDINGS:
        raise LiDiTError(f"language {language!r}: expected one of {tuple(WORDINGS)}; pick one")
    rng, found = Random(f"{seed}/{language}"), {}
    requests, given = _Requests(rng), 0
    while len(found) < n and given < 20 * n + 1000:
        category = rng.choices(tuple(CATEGORIES), tuple(CATEGORIES.values()))[0]
        request = _allowed(getattr(requests, category))
        text = _word(request, language, rng)
        found.setdefault(text, Caption(text, language, request, category))
        given += 1
    if len(found) < n:
        raise LiDiTError(f"{n} captions: expected at most about {len(found)}; ask for fewer")
    return list(found.values())


def _allowed(draw: Callable[[], SceneRequest]) -> SceneRequest:
    """The first request that may be trained on, so that every category keeps its share."""
    for _ in range(TRIES):
        request = draw()
        if _is_plain(request) and not is_held_out(request):
            return request
    raise LiDiTError(f"{TRIES} requests were all held out; change the held-out rule")


def _word(request: SceneRequest, language: str, rng: Random) -> str:
    plain, wider = WORDINGS[language]
    if plain and request.place is None and rng.random() < PLAIN_SHARE:
        return plain(request, rng)
    return wider(request, rng)


def _is_plain(request: SceneRequest) -> bool:
    """Whether no two groups of the scene are of one kind."""
    return len(set(request.kinds)) == len(request.kinds)
