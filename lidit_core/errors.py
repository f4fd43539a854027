"""The one exception that a user's mistake raises, and how a command line tells of it."""

from __future__ import annotations

import sys
from collections.abc import Callable


class LiDiTError(ValueError):
    """Bad input: one sentence that names the value, what was expected, and the remedy."""


def check(good: bool, sentence: str) -> None:
    """Raise the sentence unless what it speaks of is good."""
    if not good:
        raise LiDiTError(sentence)


def first_line(error: BaseException) -> str:
    """What another library's error says, short enough for a sentence of ours."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def exit_status(name: str, command: Callable[[], int | None]) -> int:
    """Run a command; a mistake is one line on stderr and status 2, Ctrl-C is status 130."""
    try:
        return command() or 0
    except (LiDiTError, OSError) as error:  # OSError: a folder that cannot be written, a full disk
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: stopped", file=sys.stderr)
        return 130
