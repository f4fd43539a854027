"""What a fine-tune changes: the same prompts' pictures before and after it, scored in pairs.

    python -m lidit_stickers.compare --before FOLDER --after FOLDER --prompts evaluation

Of n prompts `gained` are hits only after and `lost` only before; the difference of the scores is
(gained - lost) / n. Its 95 % interval is the adjusted Wald interval for paired proportions of
Bonett and Price (2012, J. Educ. Behav. Stat. 37(4)): with g = (gained + 1) / (n + 2) and
l = (lost + 1) / (n + 2) it is g - l ± 1.96 sqrt((g + l - (g - l)²) / (n + 2)). The prompts hit both
times or neither time only count in n, so that pairs tell far smaller changes than two scores would.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

from lidit_core.errors import LiDiTError, exit_status

from .score import add_choice, chosen, load_pictures
from .scorer.report import Report, report
from .scorer.scorer import ACCEPT


@dataclass(frozen=True)
class PairedHits:
    """One category before and after, prompt by prompt."""

    category: str
    n: int
    before: int  # hits
    after: int
    gained: int  # hits only after
    lost: int  # hits only before

    @property
    def difference(self) -> float:
        """Score after less score before, -1 to 1."""
        return (self.gained - self.lost) / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the difference."""
        return paired_interval(self.gained, self.lost, self.n)

    def markdown(self) -> str:
        low, high = self.interval
        return (
            f"| {self.category} | {self.n} | {self.before / self.n:.3f} | {self.after / self.n:.3f}"
            f" | {self.difference:+.3f} | {low:+.3f} to {high:+.3f} | {self.gained} | {self.lost} |"
        )


def paired_interval(gained: int, lost: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Interval of a difference of two shares of the same n things (formula: see the module)."""
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = z * sqrt((up + down - (up - down) ** 2) / (n + 2))
    return max(-1.0, up - down - half), min(1.0, up - down + half)


def compare(before: Report, after: Report) -> tuple[PairedHits, ...]:
    """The change of each category, and last of "all" prompts together.

    Raises:
        LiDiTError: the two reports are not of the same prompts.
    """
    if before.captions != after.captions:
        raise LiDiTError(
            f"reports of {len(before.captions)} and {len(after.captions)} prompts: expected the "
            "same prompts before and after; score both with one list"
        )
    pairs = list(zip(before.hits(), after.hits(), strict=True))
    changes = []
    for row in before.rows:
        own = [p for p, c in zip(pairs, before.captions) if c.category == row.category]
        changes.append(_change(row.category, own))
    return (*changes, _change("all", pairs))


def _change(category: str, pairs: Sequence[tuple[bool, bool]]) -> PairedHits:
    """Counts over (hit before, hit after), one per prompt."""
    return PairedHits(
        category,
        n=len(pairs),
        before=sum(before for before, _ in pairs),
        after=sum(after for _, after in pairs),
        gained=pairs.count((False, True)),
        lost=pairs.count((True, False)),
    )


def markdown(changes: Sequence[PairedHits]) -> str:
    """The changes as a table."""
    head = (
        "| category | prompts | before | after | difference | 95 % interval | gained | lost |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    return "\n".join([head, *(change.markdown() for change in changes)]) + "\n"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lidit_stickers.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name in ("before", "after"):
        what = f"folder with 00000.png, 00001.png, … drawn {name} the fine-tune"
        parser.add_argument(f"--{name}", type=Path, required=True, help=what)
    add_choice(parser)
    options = parser.parse_args(arguments)
    captions = chosen(options, parser)
    folders = (options.before, options.after)
    pictures = [load_pictures(folder, len(captions)) for folder in folders]
    accept = 0.0 if options.nearest else ACCEPT
    print(markdown(compare(*(report(few, captions, accept) for few in pictures))), end="")


if __name__ == "__main__":
    sys.exit(exit_status("compare", main))
