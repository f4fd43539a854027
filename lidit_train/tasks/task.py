"""What a task is, and which one a recipe asks for.

A new task is a new folder beside this file: its `__init__` names in `TRAINS` the values of the
recipe's ``trains`` that it serves, and its `task` module has `make_task`. Nothing else knows it.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from accelerate import Accelerator
from torch import Tensor

from lidit_core.errors import LiDiTError

from ..data.loader import Loader
from ..learner import Learner
from ..loop.validating.validator import HeldOutMeasure
from ..recipe import Recipe


class Task(Protocol):
    """One kind of training; made from a recipe that it has checked, before anything is loaded."""

    recipe: Recipe  # as the loop reads it
    llms: Mapping[str, str]  # by name, where the recipe says that an LLM is

    def check_files(self) -> None:
        """Look for the files that the recipe names.

        Raises:
            LiDiTError: one is missing or does not fit.
        """

    def check_data(self) -> None:
        """Look for what reading the data needs.

        Raises:
            LiDiTError: it is missing or does not fit.
        """

    def read_llms(self) -> Sequence[str]:
        """The names of the LLMs that some step reads."""
        ...

    def prepare(self, out: Path, accelerator: Accelerator, llms: Mapping[str, str]) -> Any:
        """What batches are made of, with the caches filled; every process its share.

        Args:
            llms: where LLMs are that are not found under their names.
        """
        ...

    def loader(self, ready: Any, accelerator: Accelerator) -> Loader:
        """The batches of this process."""
        ...

    def held_out(self, ready: Any, loader: Any, accelerator: Accelerator) -> HeldOutMeasure | None:
        """What measures a learner on what it never learns from; None = nothing is measured."""
        ...

    def unused(self, out: Path, accelerator: Accelerator, llms: Mapping[str, str]) -> list[Path]:
        """Files in the recipe's caches that hold nothing it reads."""
        ...

    def learner(self, ready: Any) -> Learner:
        """The model with its first weights, on the CPU, and what is not trained frozen."""
        ...

    def save(
        self,
        ready: Any,
        learner: Learner,
        weights: Mapping[str, Tensor],
        longest: Mapping[str, int] | None,
        path: Path,
    ) -> None:
        """Write what was trained into one file.

        Args:
            weights: the learner's state dict with its averages in place, in bfloat16 on the CPU.
            longest: tokens of the longest prompt that each LLM read, by name; None = not known.
        """

    def plan(self, folder: Path) -> str:
        """What `--print-plan` shows: memory, operations, time and disk of the run."""
        ...


def open_task(recipe: Recipe) -> Task:
    """The task of a recipe.

    Raises:
        LiDiTError: no task trains that, or the recipe has fields that its task does not use.
    """
    found = dict(_tasks())
    if recipe.trains not in found:
        raise LiDiTError(
            f"what the recipe trains is {recipe.trains!r}; expected one of {', '.join(found)}"
        )
    return import_module(f".{found[recipe.trains]}.task", __package__).make_task(recipe)


def trained_kinds() -> tuple[str, ...]:
    """Every value that a recipe's ``trains`` may have."""
    return tuple(trains for trains, _ in _tasks())


def _tasks() -> Iterator[tuple[str, str]]:
    """Every value of ``trains``, and the folder that serves it."""
    package = import_module(__name__.rpartition(".")[0])
    for module in pkgutil.iter_modules(package.__path__):
        if module.ispkg:
            for trains in import_module(f".{module.name}", __package__).TRAINS:
                yield trains, module.name
