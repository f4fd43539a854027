"""What users are told about a prompt: that it was cut, or is read otherwise than elsewhere."""

from __future__ import annotations

import re

from .cache import PromptStates

LITERAL = (  # syntax of other encoders that this one reads as plain text
    (re.compile(r"\([^()]+:\s*[\d.]+\s*\)"), "a weight such as (word:1.3)"),
    (re.compile(r"\bembedding:\S"), "embedding:name"),
    (re.compile(r"\bBREAK\b"), "BREAK"),
)


def literal_notes(prompt: str) -> tuple[str, ...]:
    """What in the prompt other tools would interpret, and this one reads as plain text."""
    return tuple(f"{what} is read as plain text" for rx, what in LITERAL if rx.search(prompt))


def prompt_notes(prompt: str, states: PromptStates) -> tuple[str, ...]:
    """What a user should know of how a prompt was read, one sentence each."""
    notes = literal_notes(prompt)
    if states.used < states.total:
        notes = (f"only the first {states.used} of {states.total} tokens are read", *notes)
    return notes
