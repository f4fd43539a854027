"""Pictures of a benchmark, copied into the layout that its own evaluator reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from . import compbench, dpg, geneval
from .item import Item


def lay_out(benchmark: str, items: Mapping[int, tuple[Item, Sequence[Path]]], out: Path) -> None:
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
