"""The rows of a plan as text."""

from __future__ import annotations

from ..units import as_time


def row(what: str, value: str, more: str = "") -> str:
    """One line: what, how much, and a remark."""
    return f"  {what:44} {value:>16}  {more}".rstrip()


def held_out_row(samples: int | None, seconds: float) -> str:
    """How long held-out pictures are measured.

    Args:
        samples: passes of one picture; None = not known before the sources are read.
    """
    if samples is None:
        return row("measuring held-out pictures", "not known", "as many as the sources hold")
    return row("measuring held-out pictures", as_time(seconds), f"{samples:,} passes")
