"""Processes that lose one another: one ends, or does not answer for too long, as when halted."""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch.distributed import DistNetworkError, DistStoreError

# In the words of gloo, NCCL and torch's store, whose errors have no class of their own everywhere.
LATE = re.compile(r"timed out waiting (?P<ms>\d+) ?ms|timed? ?out|timeout", re.IGNORECASE)
ENDED = re.compile(
    r"connection (was )?(closed|reset|refused)|broken pipe|socket closed|connectFullMesh|"
    r"remote process exited|aborted",
    re.IGNORECASE,
)
COLLECTIVE = re.compile(r"gloo|nccl|c10d|tcpstore", re.IGNORECASE)
THEN = "; only what came after the last save is lost, and the same command goes on from there"


class Lost(RuntimeError):
    """Raised where another process is gone; the message says so in a sentence."""


def raise_if_lost(error: BaseException) -> None:
    """Raise what another process caused as such, before it is taken for something else.

    Raises:
        Lost: it was another process.
    """
    if lost := sentence_of_loss(error):
        raise Lost(lost) from error


def sentence_of_loss(error: BaseException) -> str | None:
    """What happened and what to do, where another process is why this error came; None elsewhere.

    An error hides in others: of a checkpoint, whose parts processes report, or of leaving a block.
    """
    for seen in _inside(error):
        told = str(seen)
        if isinstance(seen, Lost):
            return told
        network = isinstance(seen, (DistNetworkError, DistStoreError))
        spoken = isinstance(seen, RuntimeError) and COLLECTIVE.search(told)
        if not network and not spoken:
            continue
        if late := LATE.search(told):
            return _late(late["ms"]) + THEN
        if network or ENDED.search(told):
            return "another of the processes that train together has ended" + THEN
    return None


def _late(milliseconds: str | None) -> str:
    minutes = f"{int(milliseconds) / 60000:.3g} minutes" if milliseconds else "the time allowed"
    return (
        "another of the processes that train together did not answer within "
        f"{minutes}, as after a halt or when the machine slept (--wait MINUTES allows for more)"
    )


def _inside(error: BaseException) -> Iterator[BaseException]:
    """The error, what it collects from processes, and what it came from."""
    left, seen = [error], set()
    while left:
        one = left.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        failures: dict = getattr(one, "failures", {})  # of a CheckpointException, by process
        left += [failure[0] for failure in failures.values()]
        left += [e for e in (one.__cause__, one.__context__) if e is not None]
