"""One prompt of a list, its category, and what a judge holds its pictures against."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PromptItem:
    """A prompt that is to be painted.

    Args:
        category: in which the report counts it.
        asked: what the prompt asks for, in the form that the list's judge reads.
        key: what is asked for, whatever the words: prompts of one key may be compared. In a
            benchmark it is the item's name; "" = the prompt itself.
    """

    prompt: str
    category: str
    asked: object = None
    key: str = ""
