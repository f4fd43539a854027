"""The rows of a plan as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..recipe import Validation
from ..units import as_bytes, as_time
from .cache_sizes import Cached
from .workload import passes_over_one


def row(what: str, value: str, more: str = "") -> str:
    """One line: what, how much, and a remark."""
    return f"  {what:44} {value:>16}  {more}".rstrip()


def cached_rows(caches: Sequence[Cached], free: int) -> Iterator[str]:
    """What caches take, beside so many bytes that are free."""
    for cached in caches:
        size = "not known" if cached.bytes is None else as_bytes(cached.bytes)
        fits = cached.bytes is None or cached.bytes <= free
        yield row(cached.name, size, "" if fits else "MORE THAN IS FREE: this run will refuse it")


def held_out_row(validation: Validation, steps: int, samples: int | None, passing: float) -> str:
    """How long a run of so many steps measures held-out pictures.

    Args:
        samples: passes of one picture; None = not known before the sources are read.
        passing: seconds of one pass.
    """
    if samples is not None:
        return row("measuring held-out pictures", as_time(samples * passing), f"{samples:,} passes")
    thousand = as_time(1000 * passes_over_one(validation, steps) * passing)
    return row("measuring held-out pictures", "not known", f"{thousand} for each 1,000 of them")
