"""Fixed lists of prompts that state many facts, and of the same facts early or late, or in turn.

No list ever changes. The dense prompts are held out from training as those of `evaluation` are.
"""

from __future__ import annotations

from functools import lru_cache
from random import Random

from .scenes import english
from .scenes.grammar import Caption
from .scenes.heldout import is_held_out
from .scenes.kinds import BACKGROUNDS, KINDS
from .scenes.request import MAX_OBJECTS, RELATIONS, SIZES, Item, SceneRequest
from .scenes.wordings import wide
from .scorer.facts import count_facts

DENSE, FACTS = 120, (5, 8)  # prompts, and the facts that each states
DENSE_TOKENS = (20, 60)  # about how many a wide wording has
EARLY_LATE = 400  # requests
PAIRS, PAIRED = 120, (2, 3, 4)  # requests of each number of adjective-noun pairs
COLOURED = tuple(kind.key for kind in KINDS.values() if len(kind.colours) > 1)

EARLY = (
    "{n} {colour} {many} on a {bg} background",
    "{n} {colour} {many}, {bg} background",
    "a picture of {n} {colour} {many} in front of a {bg} background",
    "there are {n} {colour} {many} on {bg}",
)
LATE = (
    "{many} on a {bg} background, {n} of them and all {colour}",
    "{many}, {bg} background, in number {n}, in colour {colour}",
    "a picture of {many} in front of a {bg} background: {n} of them, each {colour}",
    "there are {many} on {bg}, {n} of them, all {colour}",
)


def _dense_request(rng: Random) -> SceneRequest:
    groups = rng.choice((2, 2, 3))
    counts = [1] * groups
    for _ in range(rng.randint(0, MAX_OBJECTS - groups)):
        counts[rng.randrange(groups)] += 1
    sizes = rng.sample(SIZES, 2) if groups == 2 and rng.random() < 0.5 else (None,) * groups
    items = []
    for kind, count, size in zip(rng.sample(tuple(KINDS), groups), counts, sizes, strict=True):
        colours = KINDS[kind].colours
        items.append(Item(kind, rng.choice(colours) if colours else None, count, size))
    relation = rng.choice(RELATIONS) if groups == 2 else None
    return SceneRequest(tuple(items), relation, rng.choice(tuple(BACKGROUNDS)))


@lru_cache(maxsize=1)
def dense_prompts() -> list[Caption]:
    """120 held-out prompts of five to eight facts, half of them in short wordings."""
    rng, found = Random("dense prompts 1"), []
    while len(found) < DENSE:
        request = _dense_request(rng)
        if is_held_out(request) and FACTS[0] <= count_facts(request) <= FACTS[1]:
            wordy = len(found) % 2
            target = rng.randint(*DENSE_TOKENS)
            text = wide.word(request, rng, target=target) if wordy else english.word(request, rng)
            found.append(Caption(text, "en", request, "dense"))
    return found


@lru_cache(maxsize=1)
def _early_late() -> tuple[tuple[SceneRequest, int], ...]:
    """Requests of several coloured objects of one kind, each with the number of its wording."""
    rng = Random("early and late 1")
    every = [
        SceneRequest((Item(kind, colour, count),), None, background)
        for kind in COLOURED
        for colour in KINDS[kind].colours
        for count in (2, 3, 4)
        for background in BACKGROUNDS
    ]
    return tuple((r, rng.randrange(len(EARLY))) for r in rng.sample(every, EARLY_LATE))


def _worded(wordings: tuple[str, ...]) -> list[Caption]:
    captions = []
    for request, number in _early_late():
        (item,) = request.items
        words = {
            "n": english.NUMBERS[item.count][0],
            "colour": item.colour,
            "many": KINDS[item.kind].nouns[0][1],
            "bg": request.background,
        }
        text = wordings[number].format(**words)
        captions.append(Caption(text, "en", request, "colour and number"))
    return captions


def early_prompts() -> list[Caption]:
    """400 prompts whose number and colour come before the noun: "three red apples on …"."""
    return _worded(EARLY)


def late_prompts() -> list[Caption]:
    """The same requests with number and colour last: "apples on …, three of them and all red".

    A causal language model reads the noun before it knows either (paper, A.3).
    """
    return _worded(LATE)


@lru_cache(maxsize=1)
def _pair_requests() -> tuple[SceneRequest, ...]:
    """Objects of as many kinds and colours: a colour at the wrong one is seen."""
    rng, found = Random("pairs 1"), {}
    while len(found) < PAIRS * len(PAIRED):
        kinds = rng.sample(COLOURED, PAIRED[len(found) // PAIRS])
        items = tuple(Item(kind, rng.choice(KINDS[kind].colours)) for kind in kinds)
        if len({item.colour for item in items}) == len(items):
            found.setdefault(frozenset(items), SceneRequest(items))
    return tuple(found.values())


def _in_turn(request: SceneRequest, items: tuple[Item, ...]) -> Caption:
    articles = ("an" if item.colour == "orange" else "a" for item in items)
    said = [f"{a} {item.colour} {KINDS[item.kind].name}" for a, item in zip(articles, items)]
    text = f"{', '.join(said[:-1])} and {said[-1]}"
    return Caption(text, "en", request, f"{len(items)} pairs")


def pair_prompts() -> list[Caption]:
    """360 lists of two to four pairs: "a red car, a blue fish and a green star" (paper, A.3)."""
    return [_in_turn(request, request.items) for request in _pair_requests()]


def reversed_pair_prompts() -> list[Caption]:
    """The same requests with the last pair first, so that each kind stands in both places."""
    return [_in_turn(request, request.items[::-1]) for request in _pair_requests()]
