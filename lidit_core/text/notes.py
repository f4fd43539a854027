"""What users are told about a prompt: that it was cut, or is read otherwise than elsewhere."""

from __future__ import annotations

import re

from .cache import PromptStates
from .emphasis import emphasis_notes
from .spec import LLMSpec

WEIGHT = (re.compile(r"\([^()]+:\s*[\d.]+\s*\)"), "a weight such as (word:1.3)")
LITERAL = (  # syntax of other encoders that this one reads as plain text
    (re.compile(r"\bembedding:\S"), "embedding:name"),
    (re.compile(r"\bBREAK\b"), "BREAK"),
)


def literal_notes(prompt: str, emphasis: bool = False) -> tuple[str, ...]:
    """What in the prompt other tools would interpret, and this one reads as plain text."""
    syntax = LITERAL if emphasis else (WEIGHT, *LITERAL)
    return tuple(f"{what} is read as plain text" for rx, what in syntax if rx.search(prompt))


def prompt_notes(prompt: str, states: PromptStates, emphasis: bool = False) -> tuple[str, ...]:
    """What a user should know of how a prompt was read, one sentence each.

    Args:
        emphasis: whether it was read for weights.
    """
    notes = literal_notes(prompt, emphasis)
    if emphasis:
        notes = (*emphasis_notes(prompt, states), *notes)
    if states.used < states.total:
        notes = (f"only the first {states.used} of {states.total} tokens are read", *notes)
    return notes


def notes_of_reading(
    prompt: str, states: PromptStates, spec: LLMSpec, emphasis: bool = False
) -> list[str]:
    """What a user should know of how an LLM read a prompt for weights that were trained on it.

    Args:
        spec: the LLM that was trained on.
        emphasis: whether the prompt was read for weights.
    """
    notes = (*prompt_notes(prompt, states, emphasis), spec.length_note(states.used))
    return [f"of the prompt {prompt!r}: {note}" for note in notes if note]
