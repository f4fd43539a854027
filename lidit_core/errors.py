"""The one exception that a user's mistake raises, and how a command line tells of it."""

from __future__ import annotations

import math
import os
import re
import reprlib
import sys
from collections.abc import Callable, Iterable

LONG_WORD = re.compile(r"\S{400,}")  # no word of ours, and no path that people have


class LiDiTError(ValueError):
    """Bad input: one sentence that names the value, what was expected, and the remedy.

    Of a word of 400 characters or more, which a file's damaged description may hold, the sentence
    keeps the beginning and the end.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(LONG_WORD.sub(lambda word: f"{word[0][:60]}...{word[0][-20:]}", sentence))


def check(good: bool, sentence: str) -> None:
    """Raise a LiDiTError with this sentence unless the condition is good."""
    if not good:
        raise LiDiTError(sentence)


def first_line(error: BaseException) -> str:
    """What another library's error says, short enough for a sentence of ours."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class _Short(reprlib.Repr):
    def repr_Tensor(self, tensor, level: int) -> str:
        return f"a tensor of {tuple(tensor.shape)}"

    repr_Parameter = repr_Tensor


def shown(value: object) -> str:
    """A value as a sentence shows it: on one line, and of a large one only the beginnings.

    Of a tensor it is the shape: a look at numbers would make every step wait for the device, since
    sentences are made before it is known whether they are needed.
    """
    short = _Short()
    short.maxstring = short.maxother = short.maxlong = 80
    short.maxlist = short.maxtuple = short.maxdict = short.maxset = 8
    short.maxlevel = 3
    try:
        return short.repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "a number of thousands of digits"


def listed(names: Iterable[object], most: int = 8) -> str:
    """Names as a sentence lists them: ``a, b and 3 more`` where there may be any number of them."""
    told = [str(name) for name in names]
    rest = len(told) - most
    return ", ".join(told[:most]) + (f" and {rest} more" if rest > 0 else "")


def is_number(value: object) -> bool:
    """Whether a value is a finite number, of a size that a computation can take."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) < 1 << 63


def is_whole(value: object) -> bool:
    """Whether a value is an integer of at most 63 bits."""
    return isinstance(value, int) and is_number(value)


def exit_status(name: str, command: Callable[[], int | None]) -> int:
    """Run a command; a mistake is one line on stderr and status 2, Ctrl-C is status 130.

    Where the output goes to a program that has ended, as `head` does, the status is 141.
    """
    try:
        try:
            return command() or 0
        finally:
            if sys.stdout:
                sys.stdout.flush()  # here, and not at the exit, where nobody could be told
    except BrokenPipeError:
        _forget_output()
        return 141  # as shells say it: 128 and the number of the signal
    except (LiDiTError, OSError) as error:  # OSError: a folder that cannot be written, a full disk
        print(f"{name}: {refusal(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: stopped", file=sys.stderr)
        return 130


def refusal(error: LiDiTError | OSError) -> str:
    """The sentence of an error, which for what the system refused is made here."""
    if isinstance(error, LiDiTError) or not error.strerror:
        return first_line(error)
    place = "" if error.filename is None else f" {shown(str(error.filename))}"
    return (
        f"the system refused{place} ({error.strerror}); expected what can be read or written "
        "there: give another path, or make room on its disk"
    )


def _forget_output() -> None:
    """Let what is left to write go nowhere: Python would try again at its exit, and complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
