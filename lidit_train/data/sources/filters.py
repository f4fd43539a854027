"""Filters by which a source leaves out pictures and captions; all are counted and named.

The paper leaves out pictures below an aesthetic score of 4.7, and captions with addresses or tags
(arXiv 2406.11831, Sec. 4).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from . import TAG_LIST, WITH_URL, LeftOut
from .reading import TAGS, URL, printable, read_caption

if TYPE_CHECKING:
    from ...recipe import Source

SIDECAR = "json"  # extension of the file with a picture's fields
Raw = bytes | str | None  # a caption as it was found
MOST_BYTES = 1 << 20  # of a sidecar that is read as JSON
ADDRESS = re.compile(r"https?:|\bwww\.|\b[\w-]+\.(com|org|net)\b", re.IGNORECASE)
PARTS, WORDS = 3, 3  # a list of tags has so many parts or more, each of so many words or fewer
SENTENCE = {"a", "an", "the", "is", "are", "was", "and", "my", "his", "her", "their", "this"}


@dataclass(frozen=True)
class Filters:
    """What a source's recipe asks of a picture's numbers and captions."""

    least: Mapping[str, float]
    most: Mapping[str, float]
    without: tuple[str, ...]

    @classmethod
    def of(cls, source: Source) -> Filters:
        return cls(source.least, source.most, source.without)

    @property
    def any(self) -> bool:
        """Whether anything may be left out."""
        return bool(self.fields or self.without)

    @property
    def fields(self) -> tuple[str, ...]:
        """The columns or fields whose numbers are looked at."""
        return tuple(dict.fromkeys([*self.least, *self.most]))

    def fault(self, fields: Mapping[str, object] | None) -> str:
        """The reason to leave out a picture with these fields; "" where there is none."""
        if not self.fields:
            return ""
        if fields is None:
            return f"has no .json file with {' and '.join(self.fields)}"
        for name in self.fields:
            value = number(fields.get(name))
            if value is None:
                return f"has no number in {name}"
            if value < self.least.get(name, -math.inf):
                return f"has less than {self.least[name]:g} in {name}"
            if value > self.most.get(name, math.inf):
                return f"has more than {self.most[name]:g} in {name}"
        return ""

    def read_caption(self, raw: Raw) -> tuple[str, int]:
        """A caption and its length, or why there is none; one of an unwanted kind is none."""
        text, length = read_caption(raw)
        for kind in self.without if length > 0 else ():
            code, is_such = UNWANTED[kind]
            if is_such(text):
                return "", code
        return text, length


def has_address(text: str) -> bool:
    """Whether a text has an address of the web in it."""
    return bool(ADDRESS.search(text))


def is_tag_list(text: str) -> bool:
    """Whether a text is nothing but tags: short parts between commas, or words after ``#``.

    A part with an article, a form of "to be" or the like belongs to a sentence, and one such part
    makes the whole text one.
    """
    words = text.split()
    if words and all(word.startswith("#") for word in words):
        return True
    parts = [part.lower().split() for part in re.split("[,，、;]", text) if part.strip()]
    short = all(len(part) <= WORDS and not SENTENCE.intersection(part) for part in parts)
    return len(parts) >= PARTS and short and not text.rstrip().endswith((".", "!", "?"))


UNWANTED: dict[str, tuple[int, Callable[[str], bool]]] = {
    "urls": (URL, has_address),
    "tags": (TAGS, is_tag_list),
}


def number(value: object) -> float | None:
    """The number that a field holds, a CSV's as text; None where it holds none."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        read = float(value)
    except (ValueError, OverflowError):
        return None
    return read if math.isfinite(read) else None


def json_fields(raw: bytes | None) -> dict | None:
    """The fields of a sidecar; None where there is none, or no JSON object."""
    if raw is None or len(raw) > MOST_BYTES:
        return None
    try:
        found = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def tell_unread(lengths: np.ndarray, name: Callable[[int], str], left_out: LeftOut) -> None:
    """Count captions that are not read beside others of their pictures.

    Args:
        lengths: (N, K) of the captions of pictures that are kept.
        name: of a picture by its place.
    """
    for code, reason in ((URL, WITH_URL), (TAGS, TAG_LIST)):
        for place in np.flatnonzero((lengths == code).any(axis=1)):
            left_out.add(reason, printable(name(int(place))))
