"""What captions say, as targets of a linear probe: kinds, numbers, colours, what stands where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from random import Random

import torch
from torch import Tensor

from ..evaluation import evaluation_prompts, synonym_prompts
from ..scenes import english
from ..scenes.grammar import Caption
from ..scenes.kinds import KINDS
from ..source import training_captions

LONGEST = 24  # words of a caption that is learnt from: what is beside the point dilutes a mean
KIND_NAMES = tuple(KINDS)
COLOURS = tuple(sorted({colour for kind in KINDS.values() for colour in kind.colours}))
NUMBERS = (1, 2, 3, 4)
BEFORE = ("left of", "above")  # relations in which the first item stands first


def kinds(caption: Caption) -> Tensor:
    """The target (kinds,): 1 where a kind is named."""
    return _named(KIND_NAMES, caption.request.kinds)


def numbers(caption: Caption) -> Tensor | None:
    """The target (4,): 1 at the number of a caption's only kind."""
    items = caption.request.items
    return _named(NUMBERS, [items[0].count]) if len(items) == 1 else None


def colours(caption: Caption) -> Tensor | None:
    """The target (colours,): 1 where an object has it; the background's colour is none of them."""
    said = [item.colour for item in caption.request.items if item.colour]
    return _named(COLOURS, said) if said else None


def first(caption: Caption) -> Tensor | None:
    """The target (kinds,): 1 for what stands left of the other or above it, -1 for the other."""
    request = caption.request
    if request.relation is None or len(set(request.kinds)) < 2:
        return None
    sign = 1.0 if request.relation in BEFORE else -1.0
    one, other = (KIND_NAMES.index(kind) for kind in request.kinds)
    target = torch.zeros(len(KIND_NAMES))
    target[one], target[other] = sign, -sign
    return target


def _named(names: Sequence, said: Sequence) -> Tensor:
    target = torch.zeros(len(names))
    target[[names.index(name) for name in said]] = 1.0
    return target


def all_named(scores: Tensor, target: Tensor) -> bool:
    """Whether those that are named have the highest scores."""
    count = int(target.sum())
    return bool(target[scores.topk(count).indices].all())


def in_order(scores: Tensor, target: Tensor) -> bool:
    """Whether of the two that are named the first has the higher score."""
    return bool(scores[target.argmax()] > scores[target.argmin()])


@dataclass(frozen=True, eq=False)
class Fact:
    """One thing that captions say."""

    name: str
    target: Callable[[Caption], Tensor | None]  # None = this caption does not say it
    right: Callable[[Tensor, Tensor], bool]


FACTS = (
    Fact("kinds", kinds, all_named),
    Fact("numbers", numbers, all_named),
    Fact("colours", colours, all_named),
    Fact("what stands first", first, in_order),
)


def learnt(count: int) -> list[Caption]:
    """The first captions of training that are short."""
    distinct = count
    while True:
        distinct *= 2
        short = [c for c in training_captions("en", distinct) if len(c.text.split()) <= LONGEST]
        if len(short) >= count:
            return short[:count]


COMBINATIONS, ORDERS, UNSEEN = "held-out combinations", "both orders", "unseen words"
JUDGED = {  # by the list of captions: facts by name
    COMBINATIONS: ("kinds", "numbers", "colours"),
    ORDERS: ("what stands first",),
    UNSEEN: ("kinds",),
}


def asked(every: int) -> dict[str, list[Caption]]:
    """Captions that are judged: held-out combinations, and words that training does not have.

    What stands first is asked of both orders of two things: in one order alone, a reading that
    knows no order is right as often as the captions of training happen to name this kind first
    rather than that one, and all readings share that luck.
    """
    combinations = evaluation_prompts()[::every]
    related = [caption for caption in combinations if first(caption) is not None]
    return {
        COMBINATIONS: combinations,
        ORDERS: [caption for each in related for caption in exchanged(each)],
        UNSEEN: synonym_prompts()[::every],
    }


def exchanged(caption: Caption) -> tuple[Caption, Caption]:
    """A request in words anew, and with its two things exchanged in the same words."""
    one = caption.request
    other = replace(one, items=one.items[::-1])
    for seed in count():
        texts = [english.word(request, Random(seed)) for request in (one, other)]
        if _words(texts[0]) == _words(texts[1]):
            mine, turned = (replace(caption, text=text) for text in texts)
            return mine, replace(turned, request=other)
    raise AssertionError  # seeds do not end


def _words(text: str) -> list[str]:
    """What a caption is made of, in any order; articles go with the noun that follows."""
    words = text.lower().replace(",", "").replace(".", "").split()
    return sorted("a" if word == "an" else word for word in words)
