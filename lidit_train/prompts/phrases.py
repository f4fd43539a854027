"""Tags, sentences, styles and stories: the kinds of prompts that people write.

Every noun of a phrase is taken from a supply that goes through all nouns before one comes again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from . import words

VOWELS = "aeiou"


class Supply:
    """Gives the members of a list in an order drawn anew each time round."""

    def __init__(self, members: Sequence[str], chance: random.Random) -> None:
        self._next = self._laps(members, chance)

    def __call__(self) -> str:
        return next(self._next)

    @staticmethod
    def _laps(members: Sequence[str], chance: random.Random) -> Iterator[str]:
        while True:
            yield from chance.sample(members, len(members))


@dataclass(frozen=True)
class Phrases:
    """Draws phrases.

    Args:
        chance: decides everything; equal states give equal phrases.
    """

    chance: random.Random
    noun: Supply
    adjective: Supply
    title: Supply | None = None
    description: Supply | None = None  # of a thing, in half a sentence
    example: Supply | None = None  # phrases and sentences on anything

    def thing(self) -> str:
        """Draw a phrase for a thing or several: ``a small wooden boat``, ``three red boats``."""
        noun, described = self.noun(), " ".join([*self._attributes()])
        if self.chance.random() < 0.15:
            return f"{self._one(words.NUMBERS)} {described} {plural(noun)}".replace("  ", " ")
        return with_article(f"{described} {noun}".strip())

    def _attributes(self) -> Iterator[str]:
        """None to three words before a noun, in the order in which English has them."""
        if self.chance.random() < 0.15:
            yield self._one(words.SIZES)
        if self.chance.random() < 0.25:
            yield self.adjective()
        if self.chance.random() < 0.4:
            yield self._one(words.COLOURS)
        if self.chance.random() < 0.2:
            yield self._one(words.MATERIALS)

    def tags(self) -> str:
        """Some words with commas between them."""
        count = self.chance.choice((2, 3, 4, 6, 8, 10, 12, 16, 20, 24))
        kinds: Sequence[Callable[[], str]] = (self.noun, self.noun, self._tag, self._manner)
        parts = [self.noun(), *(self.chance.choice(kinds)() for _ in range(count - 1))]
        return ", ".join(parts)

    def _tag(self) -> str:
        first = self._one(words.COLOURS) if self.chance.random() < 0.5 else self.adjective()
        return f"{first} {self.noun()}"

    def _manner(self) -> str:
        lists = (words.STYLES, words.LIGHTS, words.VIEWS, words.QUALITIES)
        return self._one(self.chance.choice(lists))

    def sentence(self) -> str:
        """One sentence on one to four things, or on one thing at length."""
        form = self.chance.choice(
            (self._placed, self._related, self._done, self._listed, self._described, self._said)
        )
        text = form()
        return text[0].upper() + text[1:] if self.chance.random() < 0.4 else text

    def _placed(self) -> str:
        return f"{self.thing()} {self._one(words.PLACES)}{self._when()}"

    def _related(self) -> str:
        text = f"{self.thing()} {self._one(words.RELATIONS)} {self.thing()}"
        if self.chance.random() < 0.4:
            text += f" and {self.thing()} {self._one(words.RELATIONS)} it"
        return text + self._when()

    def _done(self) -> str:
        who = self._one(words.PERSONS) if self.chance.random() < 0.6 else self.thing()
        where = f" {self._one(words.PLACES)}" if self.chance.random() < 0.4 else ""
        return f"{who} {self._one(words.DEEDS)} {self.thing()}{where}"

    def _listed(self) -> str:
        things = [self.thing() for _ in range(self.chance.randint(2, 4))]
        return f"{', '.join(things[:-1])} and {things[-1]}{self._when()}"

    def _described(self) -> str:
        return f"{self.description() if self.description else self.thing()}{self._when()}"

    def _said(self) -> str:
        """An example, at times with more than one, since many are short."""
        if self.example is None:
            return self._done()
        texts = [self.example() for _ in range(self.chance.choice((1, 1, 2, 3)))]
        return ", ".join([*texts, self.thing()] if len(texts) == 1 else texts)

    def _when(self) -> str:
        return f" {self._one(words.TIMES)}" if self.chance.random() < 0.25 else ""

    def style(self) -> str:
        """What is shown, and how it is drawn."""
        what = self.sentence() if self.title is None or self.chance.random() < 0.6 else self.title()
        manners = [self._manner() for _ in range(self.chance.randint(0, 5))]
        style = self._one(words.STYLES)
        if self.chance.random() < 0.5:
            return ", ".join([f"{with_article(style)} of {what}", *manners])
        return ", ".join([what, style, *manners])

    def story(self) -> str:
        """Two to seven sentences on one scene."""
        feeling = with_article(self._one(words.FEELINGS))
        sentences = [f"The picture shows {feeling} scene: {self.sentence()}"]
        for _ in range(self.chance.randint(1, 6)):
            sentences.append(self._next())
        return ". ".join(sentences) + "."

    def _next(self) -> str:
        """One more sentence of a story."""
        moment, kind = self._one(words.MOMENTS), self.chance.random()
        if kind < 0.3:
            return f"{moment}, {self._done()}"
        if kind < 0.5:
            return f"{moment}, {self.thing()} {self._one(words.ACTIONS)}"
        if kind < 0.8:
            return f"There is {self._described()}"
        text = self._said()
        return text[0].upper() + text[1:]

    def _one(self, members: Sequence[str]) -> str:
        return self.chance.choice(members)


KINDS = ("tags", "sentence", "style", "story")


def with_article(text: str) -> str:
    """Put the article before a text: ``an apple``, ``a pear``."""
    return f"{'an' if text[0] in VOWELS else 'a'} {text}"


def plural(noun: str) -> str:
    """Most nouns' plural, by the rules of spelling alone."""
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2:-1] not in VOWELS:
        return f"{noun[:-1]}ies"
    return f"{noun}s"
