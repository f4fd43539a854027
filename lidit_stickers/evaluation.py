"""The evaluation prompts: a fixed list of held-out requests in six categories after GenEval's.

Every request contains a combination that the rule of `heldout` keeps out of training. Five of the
categories are GenEval's; backgrounds stand in the place of its colour attribution, which is a list
of its own. Two more are reported beside the six: English synonyms that no caption uses, and
Chinese.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import combinations
from random import Random

from .scenes import chinese, english
from .scenes.grammar import Caption
from .scenes.heldout import background_held_out, colour_held_out, count_held_out, pair_held_out
from .scenes.kinds import BACKGROUNDS, KINDS
from .scenes.request import RELATIONS, Item, SceneRequest

SEED = "evaluation prompts 1"
PER_CATEGORY = 180
CATEGORIES = ("single object", "two objects", "position", "counting", "background", "colour")
ATTRIBUTION = "colour attribution"
EXTRA = {"unseen synonym": 60, "chinese": 120}


def _scene(*items: Item, relation: str | None = None, on: str | None = None) -> SceneRequest:
    return SceneRequest(items, relation, on)


def _singles() -> list[SceneRequest]:
    return [_scene(Item(k), on=b) for k in KINDS for b in BACKGROUNDS if background_held_out(k, b)]


def _pairs(rng: Random) -> list[tuple[Item, Item]]:
    """The held-out pairs, in random order inside and among them."""
    pairs = [pair for pair in combinations(KINDS, 2) if pair_held_out(*pair)]
    shuffled = (rng.sample(pair, 2) for pair in rng.sample(pairs, len(pairs)))
    return [(Item(first), Item(second)) for first, second in shuffled]


def _some_background(rng: Random) -> str | None:
    return rng.choice((None, *BACKGROUNDS))


def held_out_requests(rng: Random) -> dict[str, list[SceneRequest]]:
    """All held-out requests of each category, before the wording."""
    names = tuple(BACKGROUNDS)
    counts = [(k, n) for k in KINDS for n in (2, 3, 4) if count_held_out(k, n)]
    tints = [(k.key, c) for k in KINDS.values() for c in k.colours if colour_held_out(k.key, c)]
    return {
        "single object": _singles(),
        "two objects": [_scene(*p, on=_some_background(rng)) for p in _pairs(rng)],
        "position": [
            _scene(*pair, relation=RELATIONS[i % 4], on=_some_background(rng))
            for i, pair in enumerate(_pairs(rng))
        ],
        "counting": [_scene(Item(k, None, n), on=b) for k, n in counts for b in (None, *names)],
        "background": _singles()
        + [_scene(*pair, on=names[i % 6]) for i, pair in enumerate(_pairs(rng)[:120])],
        "colour": [_scene(Item(k, c), on=b) for k, c in tints for b in (None, *names)],
    }


def worded(
    category: str, requests: list[SceneRequest], n: int, rng: Random, taken: set[str]
) -> Iterable[Caption]:
    """Word `n` captions with texts not taken yet, going round through the shuffled requests."""
    language = "zh" if category == "chinese" else "en"
    order: list[SceneRequest] = []
    while n:
        order = order or rng.sample(requests, len(requests))
        request = order.pop()
        if language == "zh":
            text = chinese.word(request, rng)
        else:
            text = english.word(request, rng, unseen=category == "unseen synonym")
        if text not in taken:
            taken.add(text)
            n -= 1
            yield Caption(text, language, request, category)


@lru_cache(maxsize=1)
def _all_prompts() -> tuple[Caption, ...]:
    rng = Random(SEED)
    requests, taken, out = held_out_requests(rng), set(), []
    for category in CATEGORIES:
        out += worded(category, requests[category], PER_CATEGORY, rng, taken)
    unseen = [
        _scene(Item(k.key), on=b) for k in KINDS.values() if k.unseen for b in (None, *BACKGROUNDS)
    ]
    out += worded("unseen synonym", unseen, EXTRA["unseen synonym"], rng, taken)
    chinese_requests = [
        r for group in requests.values() for r in rng.sample(group, min(40, len(group)))
    ]
    out += worded("chinese", chinese_requests, EXTRA["chinese"], rng, taken)
    return tuple(out)


def evaluation_prompts() -> list[Caption]:
    """The 1,080 held-out English prompts of the six categories; the list never changes."""
    return [c for c in _all_prompts() if c.category in CATEGORIES]


@lru_cache(maxsize=1)
def attribution_prompts() -> list[Caption]:
    """180 held-out prompts of two things, each in a colour of its own: GenEval's attribution.

    Both are of kinds that come in several colours, so that a colour at the wrong one is seen.
    """
    rng, taken = Random("colour attribution 1"), set()
    several = [kind.key for kind in KINDS.values() if len(kind.colours) > 1]
    requests = [
        _scene(Item(a, one), Item(b, other), on=_some_background(rng))
        for a, b in combinations(several, 2)
        if pair_held_out(a, b)
        for one in KINDS[a].colours
        for other in KINDS[b].colours
        if one != other
    ]
    return list(worded(ATTRIBUTION, requests, PER_CATEGORY, rng, taken))


def synonym_prompts() -> list[Caption]:
    """60 English prompts with synonyms that no training caption uses."""
    return [c for c in _all_prompts() if c.category == "unseen synonym"]


def chinese_prompts() -> list[Caption]:
    """120 held-out Chinese prompts of all six sorts."""
    return [c for c in _all_prompts() if c.category == "chinese"]
