"""How far a long step is, told to whoever listens: fetching, converting and loading an LLM."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")
Listener = Callable[[str, float], None]  # what is done, and the share of it that is, 0 to 1

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


class Cancelled(BaseException):
    """A listener wants the step to end. It is no `Exception`, so that no reader keeps it."""


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Let `listener` hear what `tell` says within the block; it may raise `Cancelled`."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def is_heard() -> bool:
    """Whether anyone listens."""
    return _listener.get() is not None


def tell(what: str, share: float) -> None:
    """Tell how much of `what` is done, from 0 to 1. Nothing happens where nobody listens.

    Raises:
        Cancelled: the listener wants it to end here.
    """
    listener = _listener.get()
    if listener is not None:
        listener(what, min(max(share, 0.0), 1.0))


def told(what: str, items: Iterable[T], count: int | None = None) -> Iterator[T]:
    """The same items; before each it is told how many of `count` have been taken."""
    count = count or (len(items) if isinstance(items, Sized) else 1)
    for taken, item in enumerate(items):
        tell(what, taken / count)
        yield item
