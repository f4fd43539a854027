"""Checkpoints of a run: written into a folder beside and renamed, the newest whole one found.

The last one from before the learning rate's decay stays beside the newest, so that a run can be
lengthened without a second decay.

torch.distributed.checkpoint keeps what several processes hold each a part of, and gives it back to
another number of processes.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import pickle
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint.state_dict_loader as loader
import torch.distributed.checkpoint.state_dict_saver as saver
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.tensor import DTensor

from lidit_core.errors import LiDiTError, first_line

from .lost import raise_if_lost

log = logging.getLogger(__name__)

PREFIX = "step-"
NUMBERS = "numbers.json"
FULL = 64 << 20  # bytes: with fewer left a disk counts as full
DAMAGED = (RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError)


class CheckpointFolder:
    """The checkpoints of a run, named after the steps that they follow, in a folder of its own."""

    def __init__(self, run: Path, keep: int, accelerator: Accelerator) -> None:
        self.folder, self.keep, self.accelerator = run / "checkpoints", keep, accelerator

    def found(self) -> list[tuple[int, Path]]:
        """Step and folder of every whole checkpoint, the newest first."""
        folders = self.folder.glob(f"{PREFIX}[0-9]*") if self.folder.is_dir() else ()
        whole = [f for f in folders if f.suffix != ".part" and (f / NUMBERS).is_file()]
        return sorted(((int(f.name.removeprefix(PREFIX)), f) for f in whole), reverse=True)

    def save(self, step: int, state: dict[str, Any], numbers: dict[str, Any]) -> None:
        """Write tensors, numbers and every process's random state; every process must call.

        Raises:
            LiDiTError: it cannot be written; the older checkpoints are as they were.
        """
        path = self.folder / f"{PREFIX}{step:07d}"
        beside = path.with_suffix(".part")
        if self.accelerator.is_main_process:
            self._clear(beside)
        self.accelerator.wait_for_everyone()
        try:
            _quietly(saver.save, state, checkpoint_id=beside)
            save_file(_random_state(), beside / f"random-{self.accelerator.process_index}")
            if self.accelerator.is_main_process:
                (beside / NUMBERS).write_text(json.dumps(numbers))
        except (CheckpointException, SafetensorError, OSError, RuntimeError) as error:
            raise_if_lost(error)  # which no room on a disk mends
            if self.accelerator.is_main_process:
                shutil.rmtree(beside, ignore_errors=True)
            before = "the one before it is whole: " if self.found() else "there is none before it: "
            raise LiDiTError(
                f"the checkpoint {path} cannot be written ({_cause(error, self.folder)}); {before}"
                "make room on its disk and start the same command again"
            ) from error
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            shutil.rmtree(path, ignore_errors=True)
            beside.rename(path)
            self._tidy(step)
        self.accelerator.wait_for_everyone()

    def _tidy(self, step: int) -> None:
        """Delete old checkpoints, and those beyond ``step``, which a lengthened run left behind."""
        found = self.found()
        mine = [path for number, path in found if number <= step]
        before = [path for path in mine if decayed_to(path) == 1]
        stay = set(before[:1] if decayed_to(mine[0]) < 1 else ())
        stay |= set([path for path in mine if path not in stay][: self.keep])
        for _, path in found:
            if path not in stay:
                shutil.rmtree(path, ignore_errors=True)

    def _clear(self, beside: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.glob(f"{PREFIX}*.part"):
            shutil.rmtree(left, ignore_errors=True)
        beside.mkdir()

    def load(self, path: Path, state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Fill a state of the same structure from a checkpoint; return it and the numbers stored.

        Raises:
            LiDiTError: it is damaged, or of another model or optimiser.
        """
        try:
            self._load_tensors(path, state)
            random = path / f"random-{self.accelerator.process_index}"
            if random.is_file():  # with more processes than before, new ones have none
                _set_random_state(load_file(random))
            return state, json.loads((path / NUMBERS).read_text())
        except (CheckpointException, SafetensorError, OSError, *DAMAGED) as error:
            raise_if_lost(error)  # and the checkpoint is whole
            older = [step for step, other in self.found() if other < path]
            then = f"that of step {older[0]} is taken" if older else "the run begins anew"
            raise LiDiTError(
                f"the checkpoint {path} does not fit ({_cause(error, path)}); take the recipe that "
                "the run was begun with, name another folder with --out, or delete this checkpoint "
                f"if it is damaged, so that {then}"
            ) from error

    def _load_tensors(self, path: Path, state: dict[str, Any]) -> None:
        """Fill the state's tensors; scalars that were written as such get their one dimension.

        An adapter's were of shape () before they became (1,), which can be divided over processes.
        """
        saved = FileSystemReader(path).read_metadata().state_dict_metadata
        grown = [
            (holder, key)
            for place, holder, key in _tensors(state)
            if getattr(saved.get(place), "size", None) == torch.Size()
            and holder[key].shape == (1,)
            and not isinstance(holder[key], DTensor)
        ]
        for holder, key in grown:
            holder[key] = holder[key].view(())
        _quietly(loader.load, state, checkpoint_id=path)
        for holder, key in grown:
            holder[key] = holder[key].view(1)


def _tensors(state: dict, place: str = "") -> Iterator[tuple[str, dict, Any]]:
    """Every tensor of a state: its name in a checkpoint, and where it stands."""
    for key, value in list(state.items()):
        if isinstance(value, dict):
            yield from _tensors(value, f"{place}{key}.")
        elif isinstance(value, torch.Tensor):
            yield f"{place}{key}", state, key


def numbers_of(path: Path) -> dict[str, Any]:
    """What a checkpoint holds beside its tensors; nothing where it cannot be read."""
    try:
        return json.loads((path / NUMBERS).read_text())
    except (OSError, ValueError):  # loading it tells what is wrong
        return {}


def decayed_to(path: Path) -> float:
    """The decay factor of a checkpoint's last step, in [0, 1]; 1 where it does not say."""
    return numbers_of(path).get("decay_factor", 1.0)


def tell_longer(step: int, fallen: float, rises: float, before: int | None) -> None:
    """Say how a lengthened run goes on whose newest checkpoint lies in the shorter one's decay.

    Args:
        fallen, rises: that checkpoint's decay factor, and the longer run's at the same step.
        before: the step before the decay to which it goes back; None = nothing is left of that.
    """
    if before is not None:
        told = (
            "step %d lies in the decay of a shorter run; this one goes on from step %d, before it, "
            "and leaves what came after"
        )
        return log.info(told, step, before)
    told = (
        "step %d lies in the decay of a shorter run, and no checkpoint from before it is there: "
        "the rate, fallen to %.0f %%, goes back to %.0f %% and falls once more; for a run that "
        "decays once begin in another folder"
    )
    log.warning(told, step, 100 * fallen, 100 * rises)


def tell_place(step: int, steps: int) -> None:
    """Say where a run of so many steps goes on, or that it has ended."""
    if step < steps:
        return log.info("going on at step %d of %d", step, steps)
    if step == steps:
        return log.info("all %d steps are done; the final file is written again", step)
    log.warning(
        "the run has made %d steps, and the recipe has only %d: nothing is trained, and the "
        "final file is that of step %d; for a shorter run name another folder with --out",
        *(step, steps, step),
    )


def tell_stage(step: int, made: int, now: int) -> None:
    """Warn where the recipe, since changed, gives the last step to another stage."""
    if made != now:
        log.warning(
            "step %d was made in stage %d of the recipe and now lies in stage %d, with which "
            "the run goes on; to have the stages in their order lengthen the last one alone, "
            "or name another folder with --out",
            *(step, made + 1, now + 1),
        )


def _random_state() -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _quietly(function, *arguments, **options) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        function(*arguments, **options)


def _one_of(error: BaseException) -> BaseException:
    failures: dict = getattr(error, "failures", {})  # of a CheckpointException, by process
    return next((failure[0] for failure in failures.values()), error)


def _cause(error: BaseException, place: Path) -> str:
    """The reason in the system's words, of one process among those that a save collects."""
    error = _one_of(error)
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.strerror:
            return seen.strerror
        seen = seen.__cause__ or seen.__context__
    told = first_line(error)
    if "write" not in told and "enforce fail" not in told:
        return told
    # torch's writer in C++ keeps the system's reason to itself
    return os.strerror(errno.ENOSPC if _is_full(place) else errno.EIO)


def _is_full(place: Path) -> bool:
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free < FULL
