"""Reading CONDITIONING entries, into which any node, script or file may have written anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..lidit_core.errors import LiDiTError, check, first_line, shown

LONGEST, LONGEST_NAME = 100_000, 300  # characters; a reading holds a template
STRANGE = (
    *(AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError),
    NotImplementedError,  # PyTorch's, of an operation that this type of number does not have
)


@contextmanager
def readable() -> Iterator[None]:
    """Tell in one sentence whatever the reading of an entry's values fails with."""
    try:
        yield
    except LiDiTError:
        raise
    except STRANGE as error:
        told = f"{type(error).__name__}: {first_line(error)[:200]}"
        raise LiDiTError(
            f"this conditioning does not hold what a text encode node writes ({told!a}); take out "
            "the node that changed it, or encode the prompt again"
        ) from error


def text_at(texts: Any, i: str) -> str:
    """The name of an LLM, or of how it read, among an entry's values.

    Raises:
        LiDiTError: there is something else, or a text that is none of the pack's.
    """
    text = texts[i]
    check(
        isinstance(text, str) and len(text) <= LONGEST,
        f"this conditioning has {shown(text)} where the name of an LLM or of its reading is "
        "expected; encode the prompt again",
    )
    return text


def name_at(names: Any, i: str) -> str:
    """The name of an LLM, which sentences show."""
    name = text_at(names, i)
    check(
        len(name) <= LONGEST_NAME,
        f"this conditioning has {shown(name)} where the name of an LLM is expected; encode the "
        "prompt again",
    )
    return name
