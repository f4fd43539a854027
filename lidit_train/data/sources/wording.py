"""Captions of a source as its recipe words them: behind a prefix, with tags in several orders.

All orders are known before training, so that LLMs may read them once; which one a sample reads is
drawn with its caption (lidit_train.data.sample_draws), by the seed and the step alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import permutations

import numpy as np
from PIL import Image

from ...recipe import Source
from . import PictureSource

ALL = 5  # tags of which all orders are gone through
BYTES = 8  # of a drawn number
ATTEMPTS = 4  # draws for every order that is wanted; tags that stand twice give the same ones


class Worded:
    """A source whose captions read otherwise; all else is as it was."""

    def __init__(self, plain: PictureSource, source: Source) -> None:
        self.plain, self.source = plain, source
        self.sizes, self.left_out, self.masked = plain.sizes, plain.left_out, plain.masked

    def captions(self, index: int) -> list[tuple[str, float]]:
        """Every order of every caption; the orders of a caption share its weight."""
        found = []
        for text, weight in self.plain.captions(index):
            orders = tag_orders(text, self.source.tag_orders, self.source.keep_tags)
            found += [(self._prefixed(order), weight / len(orders)) for order in orders]
        return found

    def _prefixed(self, text: str) -> str:
        return f"{self.source.prefix.strip()} {text}".strip()

    def key(self, index: int) -> str:
        return self.plain.key(index)

    def content_key(self, index: int) -> str:
        return self.plain.content_key(index)

    def name(self, index: int) -> str:
        return self.plain.name(index)

    def picture(self, index: int, size: tuple[int, int]) -> Image.Image:
        return self.plain.picture(index, size)

    def mask(self, index: int) -> Image.Image | None:
        return self.plain.mask(index)

    def content(self, index: int, rows: int, columns: int) -> np.ndarray | None:
        return self.plain.content(index, rows, columns)


def worded(plain: PictureSource, source: Source) -> PictureSource:
    """The source itself where its recipe says nothing of its captions' wording."""
    return Worded(plain, source) if source.prefix or source.tag_orders else plain


@lru_cache(maxsize=256)
def tag_orders(text: str, count: int, kept: int) -> Sequence[str]:
    """Different orders of a caption's comma-separated tags, the written one first.

    Args:
        count: of orders; fewer where the tags have fewer. 0 = the caption as it is written.
        kept: first tags that keep their places.
    """
    tags = [tag.strip() for tag in text.split(",")]
    first, rest = tags[:kept], tags[kept:]
    orders = {", ".join(tags): text}
    for places in _orders(text, len(rest), count) if count > 1 else ():
        order = ", ".join([*first, *(rest[place] for place in places)])
        orders.setdefault(order, order)
        if len(orders) == count:
            break
    return tuple(orders.values())


def _orders(text: str, tags: int, count: int) -> Iterable[Sequence[int]]:
    """Orders of so many tags: all where they are few, else drawn ones, some of them repeatedly."""
    if tags <= ALL:
        every = permutations(range(tags))
        return sorted(every, key=lambda places: _chance(f"{places}\0{text}", 1))
    return (_drawn(_chance(f"{number}\0{text}", tags)) for number in range(ATTEMPTS * count))


def _drawn(numbers: Sequence[bytes]) -> list[int]:
    """The order of places in which their numbers rise."""
    return sorted(range(len(numbers)), key=numbers.__getitem__)


def _chance(text: str, count: int) -> list[bytes]:
    """Numbers that only the text decides, in every version of Python."""
    drawn = hashlib.shake_256(text.encode()).digest(BYTES * count)
    return [drawn[first : first + BYTES] for first in range(0, len(drawn), BYTES)]
