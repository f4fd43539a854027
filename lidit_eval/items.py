"""What is asked of a model: prompts in categories, from a list that ships or a benchmark's file."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lidit_core.errors import LiDiTError, check

from .benchmarks import compbench, dpg, geneval
from .benchmarks.item import PromptItem

STICKERS = "lidit_stickers.judging"  # found by name: that package stands on this one
READERS: Mapping[str, Callable[[Path], list[PromptItem]]] = {
    "geneval": geneval.read,
    "t2i-compbench": compbench.read,
    "dpg-bench": dpg.read,
}


def items_of(name: str) -> list[PromptItem]:
    """The items of a list: ``evaluation`` and others of the stickers, or ``geneval:FILE``.

    Raises:
        LiDiTError: there is no such list, or its file is none of the benchmark's.
    """
    benchmark, colon, path = name.partition(":")
    if colon and benchmark in READERS:
        found = READERS[benchmark](Path(path))
        check(bool(found), f"{path} holds no prompt; expected those of {benchmark}")
        return found
    lists = sticker_lists()
    if name not in lists:
        known = ", ".join([*lists, *(f"{benchmark}:FILE" for benchmark in READERS)])
        raise LiDiTError(f"there are no prompts {name!r}; expected one of {known}")
    return lists[name]()


def sticker_lists() -> Mapping[str, Callable[[], list[PromptItem]]]:
    """The stickers' lists of prompts; none where their package is not installed."""
    if importlib.util.find_spec("lidit_stickers") is None:
        return {}
    return importlib.import_module(STICKERS).LISTS


@dataclass(frozen=True)
class DrawingTask:
    """One picture to draw."""

    index: int  # of its item in the whole list
    copy: int  # of the pictures of one item
    item: PromptItem
    seed: int

    def name(self, count: int, step: int = 1) -> str:
        """The picture's file name, where each item has ``count`` pictures.

        Args:
            step: see `step_of_names`.
        """
        number = f"{self.index // step:05d}"
        return f"{number}.png" if count == 1 else f"{number}-{self.copy:02d}.png"


def tasks_of(
    items: Sequence[PromptItem], seed: int, count: int, every: int = 1
) -> list[DrawingTask]:
    """The pictures to draw, with a seed each that other choices of ``every`` leave as it is."""
    check(count >= 1, f"--count is {count}; expected 1 or more")
    check(every >= 1, f"--every is {every}; expected 1 or more")
    return [
        DrawingTask(index, copy, items[index], seed + index * count + copy)
        for index in range(0, len(items), every)
        for copy in range(count)
    ]


def step_of_names(folder: Path, tasks: Sequence[DrawingTask], count: int, every: int) -> int:
    """The factor from the numbers of pictures made elsewhere to their prompts' places.

    They are numbered by their prompts' places in the whole list, or by their lines in what
    ``--write`` makes with ``--every``, as ``lidit generate --prompts`` numbers them.
    """

    def all_there(step: int) -> bool:
        return all((folder / task.name(count, step)).is_file() for task in tasks)

    return every if not all_there(1) and all_there(every) else 1


def prompts_hash(items: Sequence[PromptItem]) -> str:
    """What tells two lists of prompts apart."""
    return _hash(f"{item.category}\t{item.prompt}" for item in items)


def requests_hash(items: Sequence[PromptItem]) -> str:
    """What tells apart two lists that ask for other things; the same ones may be worded anew."""
    return _hash(f"{item.category}\t{item.key or item.prompt}" for item in items)


def _hash(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()
