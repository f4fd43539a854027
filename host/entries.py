"""Reading CONDITIONING entries, into which any node, script or file may have written anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..lidit_core.errors import LiDiTError, check, first_line, shown

STRANGE = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)


@contextmanager
def readable() -> Iterator[None]:
    """Whatever the reading of an entry's values fails with is told in one sentence."""
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
    """A name among an entry's values.

    Raises:
        LiDiTError: there is something else.
    """
    text = texts[i]
    check(
        isinstance(text, str),
        f"this conditioning has {shown(text)} where the name of an LLM or of its reading is "
        "expected; encode the prompt again",
    )
    return text
