"""Two evaluations in pairs, of the same prompts or of the same requests in other words.

Pairs tell far smaller changes than two scores do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lidit_core.errors import LiDiTError, check

from .record import read_record_of
from .report import Judged, by_prompt
from .statistics import bootstrap

SAME = ("requests_sha256", "judge", "count", "seed")


@dataclass(frozen=True)
class PairedDifference:
    """The difference of the means of the same prompts, this evaluation's less the other's."""

    category: str
    measure: str
    prompts: int
    other: float
    this: float
    low: float  # of the difference's 95 % interval, by the bootstrap over prompts
    high: float
    better: int  # prompts that score higher here
    worse: int

    @property
    def difference(self) -> float:
        """The score less the other evaluation's, positive where this one is higher."""
        return self.this - self.other


def check_comparable(record: dict, other: Path) -> None:
    """Raise a LiDiTError unless both evaluations asked for the same, and judged in the same way.

    Pictures that were made elsewhere have no seed, so that they may be compared with any.
    """
    theirs = read_record_of(other)
    seeded = "seed" in theirs and "seed" in record
    for key in (key for key in SAME if seeded or key != "seed"):
        check(
            theirs.get(key) == record.get(key),
            f"{other} has {key}={theirs.get(key)!r} and this evaluation has {record.get(key)!r}; "
            "expected the same requests, seeds and judge in both",
        )


def compare(
    this: Sequence[Judged], other: Sequence[Judged], measures: Sequence[str]
) -> list[PairedDifference]:
    """The change of each category, and last of all prompts together.

    A measure that one of the two lacks, as it was judged before there was such a measure, is left
    out.

    Raises:
        LiDiTError: there are no prompts that both have.
    """
    category = {each.task.index: each.task.item.category for each in this}
    changes = []
    for measure in measures:
        ours, theirs = by_prompt(this, measure), by_prompt(other, measure)
        both = [index for index in ours if index in theirs]
        groups = {name: [i for i in both if category[i] == name] for name in category.values()}
        if len(groups) > 1:
            groups["all"] = both
        changes += [
            _change(name, measure, [(theirs[i], ours[i]) for i in group])
            for name, group in groups.items()
            if group
        ]
    if not changes:
        raise LiDiTError("the two evaluations have no prompt in common; expected some")
    return changes


def _change(category: str, measure: str, pairs: Sequence[tuple[float, float]]) -> PairedDifference:
    other, this = np.asarray(pairs, np.float64).T
    low, high = bootstrap(this - other)
    counts = int((this > other).sum()), int((this < other).sum())
    return PairedDifference(
        category, measure, len(pairs), other.mean(), this.mean(), low, high, *counts
    )


def markdown(changes: Sequence[PairedDifference]) -> str:
    """The changes as a table."""
    lines = [
        "| category | measure | prompts | other | this | difference | 95 % | better | worse |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {c.category} | {c.measure} | {c.prompts} | {c.other:.3f} | {c.this:.3f} | "
        f"{c.difference:+.3f} | {c.low:+.3f} to {c.high:+.3f} | {c.better} | {c.worse} |"
        for c in changes
    ]
    return "\n".join(lines) + "\n"
