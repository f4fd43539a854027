"""Ctrl-C and SIGTERM end a run after the step that it is in, which is saved first."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from .voice import is_alone

Handler = Callable[[int, FrameType | None], Any] | int | None
AGAIN = 1.0  # seconds: a launcher hands the first signal on, and that is no second Ctrl-C


class Stopped(Exception):
    """A run was asked to end before its last step, and has saved where it is.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int, step: int, steps: int) -> None:
        self.number = number
        saved = f"after step {step} of {steps}, which is saved; the same command goes on there"
        super().__init__(f"stopped {saved if step else 'before the first step'}")


class Interrupted(BaseException):
    """Raised where a run is to end, to leave unfinished work; no `except Exception` takes it."""


class Signals:
    """Notes Ctrl-C and SIGTERM inside the block; a second Ctrl-C ends the process at once.

    Only a process's main thread can be told of signals; in others nothing is noted. A launcher
    ends the processes whose neighbour has failed: one that leaves the block by an error and is not
    alone takes no SIGTERM from then on, for it ends by itself, once it has said why.
    """

    def __init__(self) -> None:
        self.number = 0  # of the signal that came; 0 = none
        self._at = 0.0
        self._interrupts = False
        self._before: dict[int, Handler] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        fails = kind is not None and issubclass(kind, Exception)
        if fails and self._before and not is_alone():
            self._before[signal.SIGTERM] = signal.SIG_IGN
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """A signal does not wait for the end of this block, nor does it begin after one.

        Raises:
            Interrupted: in the middle of the block.
        """
        if self.number:
            raise Interrupted
        self._interrupts = True
        try:
            yield
        finally:
            self._interrupts = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number and number == signal.SIGINT and time.monotonic() - self._at > AGAIN:
            raise KeyboardInterrupt
        if not self.number:
            self.number, self._at = number, time.monotonic()
            if self._interrupts:
                self._interrupts = False
                raise Interrupted
