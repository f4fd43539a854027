"""Praise, style, mood and story: words around the facts that ask for nothing."""

from __future__ import annotations

from random import Random

from .words import Words

TAG_TOKENS = 4  # of one tag and its comma, about


def story(words: Words, rng: Random) -> str:
    """One sentence."""
    form = rng.choice(words.stories)
    filled = {}
    for slot, choices in words.slots.items():
        filled[slot], filled[f"{slot}2"] = rng.sample(choices, 2)
    text = form.format_map(filled)
    return text[0].upper() + text[1:]


def tags(words: Words, rng: Random, count: int) -> str:
    """Draw `count` words of praise and style between commas; now and then the same over again."""
    if rng.random() < 0.2:
        few = rng.sample(words.tags, rng.choice((1, 2)))
        return ", ".join((few * count)[:count])
    return ", ".join(rng.choice(words.tags) for _ in range(count))


def length(text: str) -> int:
    """Estimate how many tokens an LLM makes of a text: several of a long word, one of a comma."""
    return sum(1 + (len(word) - 1) // 7 for word in text.split()) + text.count(",")


def fill_with_story(facts: list[str], target: int, words: Words, rng: Random) -> list[str]:
    """Sentences before, between and after the facts, until there are `target` tokens in all.

    The facts keep their order; half of the time they come last.
    """
    told, late = list(facts), rng.random() < 0.5
    while sum(map(length, told)) < target:
        told.insert(0 if late else rng.randint(0, len(told)), story(words, rng))
    return [_ended(text) for text in told] if len(told) > 1 else told


def _ended(text: str) -> str:
    return text if text[-1] in ".?!" else f"{text}."


def fill_with_tags(facts: str, target: int, words: Words, rng: Random) -> str:
    """Tags before and after the facts, about `target` tokens in all."""
    missing = max(1, (target - length(facts)) // TAG_TOKENS)
    first = rng.choice((0, missing, rng.randint(0, missing)))
    parts = [facts.rstrip(".?")]
    if first:
        parts.insert(0, tags(words, rng, first))
    if missing > first:
        parts.append(tags(words, rng, missing - first))
    return ", ".join(parts)
