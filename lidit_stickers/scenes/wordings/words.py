"""The words that a wording is made of; one table is trained on, another is kept for evaluation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """What the English grammar chooses among.

    ``{a}`` and ``{b}`` stand for groups of objects, ``{x}`` and ``{y}`` for their bare nouns,
    ``{scene}`` for all objects together, ``{bg}`` for the background's colour, ``{what}`` for an
    object's size and colour, ``{colour}`` for that alone.
    """

    numbers: dict[int, tuple[str, ...]]  # number of objects -> words before the noun
    after: tuple[str, ...]  # attributes behind the noun
    relations: dict[str, tuple[str, ...]]  # of request.RELATIONS
    statements: dict[str, tuple[str, ...]]  # the same, of objects that were named before
    places: dict[str, tuple[str, ...]]  # of request.PLACES: where the one object is
    pairs: tuple[str, ...]
    lists: tuple[tuple[str, str], ...]  # between objects, and before the last
    backgrounds: tuple[str, ...]  # around a scene that is a phrase
    grounds: tuple[str, ...]  # sentences about the background alone
    openings: tuple[str, ...]  # before a phrase
    sentences: tuple[str, ...]
    commands: tuple[str, ...]
    questions: tuple[str, ...]
    introductions: tuple[str, ...]  # sentences that name one group after another
    adjectives: tuple[str, ...]  # that change nothing
    tags: tuple[str, ...]  # praise and style, between commas
    stories: tuple[str, ...]  # sentences without a fact, with slots
    slots: dict[str, tuple[str, ...]]  # of the stories
