"""Pictures of a benchmark, copied into the layout that its own evaluator reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lidit_core.errors import check

from . import compbench, dpg, geneval
from .item import PromptItem


def check_count(benchmark: str, count: int) -> None:
    """Raise unless a benchmark's evaluator takes so many pictures of an item."""
    most = dpg.ASIDE**2
    check(
        benchmark != "dpg-bench" or count <= most,
        f"--count is {count}, and DPG-Bench's evaluator reads {most} pictures of a prompt; "
        f"expected 1 to {most}",
    )


def lay_out(
    benchmark: str, items: Mapping[int, tuple[PromptItem, Sequence[Path]]], out: Path
) -> None:
    """Write the pictures of each item, by its number in the list, below ``out``.

    Args:
        benchmark: "geneval", "t2i-compbench" or "dpg-bench"; others have no layout.
    """
    for index, (item, pictures) in items.items():
        if benchmark == "dpg-bench":
            dpg.write(out, item, pictures)
        for copy, picture in enumerate(pictures):
            if benchmark == "geneval":
                geneval.write(out / "samples", index, copy, item, picture)
            elif benchmark == "t2i-compbench":
                compbench.write(out, index * len(pictures) + copy, item, picture)
