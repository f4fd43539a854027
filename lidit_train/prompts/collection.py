"""Draws the lines of a collection from word lists and a seed."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from lidit_core.errors import check

from .phrases import KINDS, Phrases, Supply

PIECE = re.compile(r"\w+|[^\w\s]")  # words and marks; encoders make 1.1 to 1.4 tokens of one
SHORTEST, LONGEST = 3, 90  # of them in a line: up to 110 tokens of CLIP and 141 of T5, of which
# 1 % of the lines have over 120. Another bound would draw other lines from equal lists and seeds,
# with which no recording that was stopped could go on.
NOUNS = 8000  # of the list that are used; with fewer lines each comes seldom
ADJECTIVES = 1500
TITLED = 4  # words of a title at most
TRIES = 50  # for each line: what is too short, too long or there already is drawn again


@dataclass(frozen=True)
class Lists:
    """What a collection is made of."""

    nouns: Sequence[str]
    adjectives: Sequence[str]
    titles: Sequence[str] = ()
    descriptions: Sequence[str] = ()
    examples: Sequence[str] = ()


def collect(lists: Lists, count: int, seed: int) -> list[str]:
    """Draw so many different prompts; equal lists, count and seed give equal lines.

    Raises:
        LiDiTError: the lists are too short for so many.
    """
    chance = random.Random(seed)
    short = [title for title in lists.titles if len(title.split()) <= TITLED]
    needed = (lists.nouns[:NOUNS], lists.adjectives[:ADJECTIVES])
    supplies = [Supply(members, chance) for members in needed]
    more = (short, lists.descriptions, lists.examples)
    phrases = Phrases(chance, *supplies, *(Supply(m, chance) if m else None for m in more))
    lines: dict[str, None] = {}
    for number in range(count * TRIES):
        if len(lines) == count:
            break
        line = getattr(phrases, KINDS[number % len(KINDS)])()
        if SHORTEST <= pieces(line) <= LONGEST:
            lines[line] = None
    check(
        len(lines) == count,
        f"the lists give {len(lines)} different prompts and {count} were asked for; expected "
        "longer lists, or ask for fewer",
    )
    return list(lines)


def pieces(line: str) -> int:
    """How many words and marks a line has."""
    return len(PIECE.findall(line))
