"""What users are told about a prompt that is read literally."""

from __future__ import annotations

import re

LITERAL = (  # syntax of other encoders that this one reads as plain text
    (re.compile(r"\([^()]+:\s*[\d.]+\s*\)"), "a weight such as (word:1.3)"),
    (re.compile(r"\bembedding:\S"), "embedding:name"),
    (re.compile(r"\bBREAK\b"), "BREAK"),
)


def literal_notes(prompt: str) -> tuple[str, ...]:
    """What in the prompt other tools would interpret, and this one reads as plain text."""
    return tuple(f"{what} is read as plain text" for rx, what in LITERAL if rx.search(prompt))
