"""The rows of a plan as text."""

from __future__ import annotations


def row(what: str, value: str, more: str = "") -> str:
    """One line: what, how much, and a remark."""
    return f"  {what:44} {value:>16}  {more}".rstrip()
