"""Checks of a recipe's fields, each one sentence with the value and what was expected."""

from __future__ import annotations

from collections.abc import Sequence

from lidit_core.errors import check, shown

UNLIMITED = float("inf")


def one_of(what: str, value: object, known: Sequence[object]) -> None:
    """Raise a LiDiTError unless the value is one of those known."""
    check(value in known, f"{what} is {shown(value)}; expected one of {', '.join(map(str, known))}")


def in_range(record: object, what: str, *names: str, low: float, high: float = UNLIMITED) -> None:
    """Raise a LiDiTError unless all these fields of a record lie in [low, high].

    Args:
        what: how the sentence calls the record.
    """
    limit = f"{low:g} or more" if high == UNLIMITED else f"{low:g} to {high:g}"
    for name in names:
        value = getattr(record, name)
        check(
            low <= value <= high, f"the recipe's {what} has {name}={shown(value)}; expected {limit}"
        )
