"""Words by a number that each shares with many others: all that a bag of words knows of them."""

from __future__ import annotations

import re
import zlib

WORD = r"\w+"


def word_numbers(text: str, numbers: int) -> list[int]:
    """A number from 1 to ``numbers`` for each word, whatever its case."""
    return [word_number(word, numbers) for word in re.findall(WORD, text.lower())]


def word_number(word: str, numbers: int) -> int:
    """The number of one word, 1 to ``numbers``, by its checksum."""
    return 1 + zlib.crc32(word.lower().encode()) % numbers
