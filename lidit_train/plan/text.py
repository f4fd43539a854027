"""The rows of a plan as text."""

from __future__ import annotations

from ..recipe import Validation
from ..units import as_bytes, as_time
from .cache_sizes import Cached
from .workload import passes_over_one

NOT_KNOWN = "not known"  # before the sources are read


def row(what: str, value: str, more: str = "") -> str:
    """One line: what, how much, and a remark."""
    return f"  {what:44} {value:>16}  {more}".rstrip()


def held_out_row(validation: Validation, steps: int, samples: int | None, passing: float) -> str:
    """How long a run of so many steps measures held-out pictures.

    Args:
        samples: passes of one picture; None = not known before the sources are read.
        passing: seconds of one pass.
    """
    if samples is not None:
        return row("measuring held-out pictures", as_time(samples * passing), f"{samples:,} passes")
    thousand = as_time(1000 * passes_over_one(validation, steps) * passing)
    return row("measuring held-out pictures", NOT_KNOWN, f"{thousand} for each 1,000 of them")


def cached_row(cached: Cached) -> str:
    """The room that one kind of thing takes, as far as known before the sources are read."""
    if cached.bytes is None:
        return row(cached.name, NOT_KNOWN, f"{as_bytes(cached.each)} each")
    files = f"{cached.files} file{'s' * (cached.files != 1)}"
    more = f"{cached.count:,} of {as_bytes(cached.each)}, {files}"
    open_ = f", and those {NOT_KNOWN}" if cached.more else ""
    return row(cached.name, as_bytes(cached.bytes), more + open_)


def filling_row(known: float, thousand: float) -> str:
    """How long caches take to fill.

    Args:
        known: seconds for what is known before the sources are read.
        thousand: seconds for 1,000 pictures more with a caption each; 0 = all are known.
    """
    value = as_time(known) if known or not thousand else NOT_KNOWN
    more = f"{'and ' * (known > 0)}{as_time(thousand)} for each 1,000 pictures not known"
    return row("filling the caches once, at most", value, more if thousand else "")
