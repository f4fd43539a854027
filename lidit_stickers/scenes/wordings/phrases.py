"""Noun phrases of groups of objects, as people word them."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from ..english import SIZE_WORDS
from ..kinds import Noun
from ..request import Item
from .nouns import LOOKS
from .words import Words

AFTER_SHARE = 0.2  # of groups with attributes that carry them behind the noun
LOOK_SHARE = 0.12  # of uncoloured groups whose own colour is named
ADJECTIVE_SHARE = 0.12  # of groups with an adjective that changes nothing
VERY_SHARE = 0.15  # of sizes, and of adjectives, that are made stronger
VERIES = (1, 1, 1, 1, 2, 2, 3, 6, 20, 60)  # how often in a row


@dataclass(frozen=True)
class Phrase:
    """A group in words, and what later sentences need to speak of it."""

    text: str  # "two small red cars"
    noun: str  # "cars"
    count: int

    @property
    def verb(self) -> str:
        """The verb of the phrase, is or are."""
        return "is" if self.count == 1 else "are"


def phrase(item: Item, nouns: tuple[Noun, ...], words: Words, rng: Random) -> Phrase:
    """Word a group of equal objects as a noun phrase; chance chooses among the wordings.

    Args:
        nouns: singular and plural of each noun that the group may be called by.
    """
    noun = _noun(nouns, item.count, rng)
    number = rng.choice(words.numbers[item.count])
    size = _very(rng.choice(SIZE_WORDS[item.size]), rng) if item.size else ""
    text = _attributed(noun, size, _colour(item, rng), item.count, words, rng)
    if rng.random() < ADJECTIVE_SHARE:
        text = f"{_very(rng.choice(words.adjectives), rng)} {text}"
    return Phrase(_numbered(number, text), noun, item.count)


def _noun(nouns: tuple[Noun, ...], count: int, rng: Random) -> str:
    """The plain name half of the time, another otherwise."""
    singular, plural = nouns[0] if rng.random() < 0.5 else rng.choice(nouns)
    return singular if count == 1 else plural


def _very(word: str, rng: Random) -> str:
    """The word, made stronger now and then."""
    if rng.random() >= VERY_SHARE:
        return word
    return " ".join([rng.choice(("very", "really"))] * rng.choice(VERIES) + [word])


def _colour(item: Item, rng: Random) -> str:
    """The one asked for, or sometimes the one that the kind has anyhow; or none."""
    if item.colour is not None:
        return item.colour
    return LOOKS.get(item.kind, "") if rng.random() < LOOK_SHARE else ""


def _attributed(noun: str, size: str, colour: str, count: int, words: Words, rng: Random) -> str:
    """The noun with its attributes before it or behind it."""
    before = " ".join(word for word in (size, colour, noun) if word)
    forms = [form for form in words.after if colour or "{what}" in form]
    if not (size or colour) or not forms or rng.random() >= AFTER_SHARE:
        return before
    form = rng.choice(forms)
    both = " and ".join(word for word in (size, colour) if word)
    filled = {"noun": noun, "what": both, "colour": colour, "is": "is" if count == 1 else "are"}
    text = form.format_map(filled)
    return f"{size} {text}" if size and "{what}" not in form else text


def _numbered(number: str, text: str) -> str:
    """The phrase with "an" before a vowel."""
    if number == "a" and text[0] in "aeiou":
        number = "an"
    return f"{number} {text}"
