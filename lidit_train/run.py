"""A whole run: what it reads, its model, the loop, and at the end the file that the nodes load."""

from __future__ import annotations

import gc
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from lidit_core.errors import LiDiTError
from lidit_core.io.atomic import replacing
from lidit_core.io.records import read_record

from .checks import check_run
from .data.schedule import stage_at
from .lock import alone_in
from .loop.checkpoints import CheckpointFolder, numbers_of
from .loop.computing.frozen import computing, hold_frozen, holds_half
from .loop.parallel import accelerator_for, tell_processes
from .loop.trainer import Trainer
from .loop.validating.grid import Grid, save_grid
from .loop.voice import by_first
from .memory import sentence
from .named_files import check_hashes, keep_hashes
from .recipe import Recipe
from .tasks.task import Task, open_task

log = logging.getLogger(__name__)

RECIPE, FINAL, WEIGHTS = "recipe.json", "final.safetensors", "weights"  # in the run's folder
BEST = "best.safetensors"  # there too, at the end, where pictures are held out
PLAN = "`lidit train --print-plan` says what a run needs"


def train(
    recipe: Recipe,
    out: Path,
    device: str | None = None,
    llms: Mapping[str, str] | None = None,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    wait: float | None = None,
) -> Path:
    """Run a recipe in a folder, from its newest checkpoint where it has one.

    Args:
        device: "cpu" keeps a run off the GPU that there is.
        llms: where LLMs are that are not found under their names.
        on_step: told each step's number and loss.
        wait: minutes for which processes wait for one another; None = torch's own limit.
    Returns:
        ``out/final.safetensors``: what was trained, a LI-DiT, a LoRA, an adapter or a bridge.
    """
    accelerator = accelerator_for(recipe.compute, device, wait)
    tell_processes(accelerator)
    task = open_task(recipe)
    check_run(recipe, task, out, accelerator, {**task.llms, **(llms or {})})
    with alone_in(out, accelerator):
        by_first(accelerator, lambda: _compare(recipe, out, accelerator))
        with sentence(lambda: f"before the first step; {PLAN}"):
            run = begin_run(recipe, out, accelerator, llms)
        try:
            run.trainer.begin()
            by_first(accelerator, lambda: _note_recipe(recipe, out))
            with sentence(lambda: _too_much(run.trainer)):
                run.trainer.train(on_step)
                run.write(out / FINAL)
                by_first(accelerator, run.copy_best)
        finally:
            end_together(accelerator, run.trainer)
    return out / FINAL


def end_together(accelerator: Accelerator, trainer: Trainer) -> None:
    """End what the processes share while Python is still whole.

    A copied model holds the threads of the connection, and such a thread that outlives Python
    aborts the process ("terminate called without an active exception") after all is written. On a
    GPU the next run in this process has the memory at once. Elsewhere Python collects in its own
    time, as what is called here goes three times over all of torch's objects.
    """
    del trainer.parallel
    if accelerator.num_processes > 1 or accelerator.device.type != "cpu":
        accelerator.free_memory()
        gc.collect()
    accelerator.end_training()


def export(
    recipe: Recipe,
    out: Path,
    step: int,
    device: str | None = None,
    llms: Mapping[str, str] | None = None,
) -> Path:
    """Write the loadable file of a checkpoint that a run has kept.

    Args:
        step: that the checkpoint follows.
        device, llms: as `train` takes them.
    Returns:
        The file, in ``out/weights``.
    Raises:
        LiDiTError: there is no such checkpoint, or it does not fit the recipe.
    """
    recipe = replace(recipe, compute=replace(recipe.compute, shard=False))
    check_hashes(recipe, out)
    run = begin_run(recipe, out, accelerator_for(recipe.compute, device), llms)
    run.trainer.take_up_step(step)
    return run.write(weights_file(out, step))


def clear_caches(
    recipe: Recipe, out: Path, device: str | None = None, llms: Mapping[str, str] | None = None
) -> list[int]:
    """Delete what a recipe's caches hold and it does not read.

    Args:
        device, llms: as `train` takes them.
    Returns:
        The bytes of each file that was deleted.
    """
    task, accelerator = open_task(recipe), accelerator_for(recipe.compute, device)
    given = {**task.llms, **(llms or {})}
    sizes = []
    with alone_in(out, accelerator):
        for path in task.unused(out, accelerator, given):
            sizes.append(path.stat().st_size)
            path.unlink()
    return sizes


class Halved(Mapping[str, Tensor]):
    """Weights in bf16 on the CPU, each when asked for: what goes into no file is not copied."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights = weights

    def __getitem__(self, name: str) -> Tensor:
        return self.weights[name].to("cpu", torch.bfloat16)

    def __iter__(self) -> Iterator[str]:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)


@dataclass(frozen=True)
class Run:
    """A run that can be trained: the task, what it reads, and the loop."""

    task: Task
    ready: Any  # what the task has prepared
    trainer: Trainer

    def write(self, path: Path) -> Path:
        """Write what was trained, as it now is, into one file; every process must call."""
        trainer = self.trainer
        weights = trainer.weights(averaged=trainer.recipe.checkpoints.weights != "plain")
        if trainer.accelerator.is_main_process:
            self.task.save(
                self.ready, trainer.learner, Halved(weights), trainer.longest.tokens, path
            )
        trainer.accelerator.wait_for_everyone()
        return path

    def write_best(self, step: int) -> None:
        """Write the file of the step that the held-out pictures show as the best so far.

        Those of older ones stay until no checkpoint names them, to which a run may go back.
        """
        self.write(best_file(self.folder, step))

    def _tidy_best(self) -> None:
        found = [numbers_of(path) for _, path in self.trainer.checkpoints.found()]
        steps = {(numbers.get("best") or {}).get("step") for numbers in found}
        steps.add(self.trainer.validator.best.step)
        kept = {best_file(self.folder, step) for step in steps if step is not None}
        for file in (self.folder / WEIGHTS).glob("best-*.safetensors"):
            if file not in kept:
                file.unlink(missing_ok=True)

    def copy_best(self) -> None:
        """Leave the best step's file under one name, where pictures were held out."""
        best = self.trainer.validator.best
        if best.step is None:
            return
        file = best_file(self.folder, best.step)
        if not file.is_file():
            return log.warning("%s is not there any more, and so is no %s left", file, BEST)
        with replacing(self.folder / BEST) as beside:
            shutil.copyfile(file, beside)
        told = "%s holds step %d, whose held-out loss was the lowest: %.4f"
        log.info(told, self.folder / BEST, best.step, best.loss)

    @property
    def folder(self) -> Path:
        return self.trainer.checkpoints.folder.parent

    def write_step(self, step: int) -> None:
        """Write the file of a checkpoint that is not the run's last, and drop those of old ones."""
        trainer = self.trainer
        if trainer.accelerator.is_main_process:
            self._tidy_best()
        if trainer.recipe.checkpoints.weights == "none" or step == trainer.recipe.steps:
            return
        folder = self.folder
        self.write(weights_file(folder, step))
        if trainer.accelerator.is_main_process:
            kept = {weights_file(folder, number) for number, _ in trainer.checkpoints.found()}
            for file in weights_file(folder, step).parent.glob("step-*.safetensors"):
                if file not in kept:
                    file.unlink(missing_ok=True)


def weights_file(out: Path, step: int) -> Path:
    """The loadable file of a checkpoint."""
    return out / WEIGHTS / f"step-{step:07d}.safetensors"


def best_file(out: Path, step: int) -> Path:
    """The loadable file of a step that was the best when it was measured."""
    return out / WEIGHTS / f"best-{step:07d}.safetensors"


def begin_run(
    recipe: Recipe, out: Path, accelerator: Accelerator, llms: Mapping[str, str] | None = None
) -> Run:
    """Prepare the data, and put the model on its device with what is not trained frozen.

    Args:
        llms: where LLMs are, by name; they go before those that the recipe names.
    """
    task = open_task(recipe)
    task.check_files()
    given = {**task.llms, **(llms or {})}
    ready = task.prepare(out, accelerator, given)
    learner = task.learner(ready)
    half = holds_half(recipe.compute, accelerator.mixed_precision == "bf16")
    hold_frozen(learner, recipe.compute, half)
    learner = learner.to(accelerator.device)
    loader = task.loader(ready, accelerator)
    trainer = Trainer(task.recipe, learner, loader, accelerator, out)
    run = Run(task, ready, trainer)
    trainer.write, trainer.validator.keep = run.write_step, run.write_best
    if recipe.validation.prompts and (recipe.validation.every or recipe.validation.at_start):
        chosen = recipe.validation.branches or ready.readers
        grid = Grid(recipe.validation, {i: ready.readers[i] for i in chosen}, ready.spec)

        def draw(step: int) -> Tensor:
            with computing(accelerator, half) if half else nullcontext():
                pixels = grid.draw(learner, ready.vae, accelerator.device)
            if accelerator.is_main_process:
                save_grid(pixels, out / "grids" / f"{step:07d}.png")
            return pixels

        trainer.validator.draw = draw
    held_out = task.held_out(ready, loader, accelerator)
    if held_out is not None:
        log.info(held_out.told())
        trainer.validator.measured = held_out.identity()
        trainer.validator.measure = partial(held_out.measure, learner)
    return run


def _too_much(trainer: Trainer) -> str:
    """What was computed when memory was full, and what to set."""
    compute, step = trainer.recipe.compute, trainer.step
    batch = stage_at(step, trainer.recipe.stages)[1].batch // trainer.accelerator.num_processes
    size = min(compute.micro_batch or batch, batch)
    remedies = [f"compute.micro_batch={size // 2}"] * (size > 1)
    remedies += ["compute.checkpointing=true"] * (not compute.checkpointing)
    setting = f"set {' and '.join(remedies)}, or " if remedies else ""
    return f"after step {step}, with {size} pictures at once; {setting}lower the resolution; {PLAN}"


def _json_of(recipe: Recipe) -> str:
    return json.dumps(asdict(recipe), ensure_ascii=False)


def _compare(recipe: Recipe, out: Path, accelerator: Accelerator) -> None:
    """Compare with what the run has been trained with so far, if it has been.

    Raises:
        LiDiTError: a file that the recipe names was replaced since.
    """
    if CheckpointFolder(out, recipe.checkpoints.keep, accelerator).found():
        check_hashes(recipe, out)
    _tell_changes(recipe, out)


def _tell_changes(recipe: Recipe, out: Path) -> None:
    """Say what differs from the recipe that the run has been trained with so far."""
    if (path := out / RECIPE).is_file():
        before = _with_all_fields(json.loads(path.read_text(encoding="utf-8")))
        changed = _differences(before, json.loads(_json_of(recipe)))
        if changed:
            log.warning("the recipe has changed since the run began: %s", "; ".join(changed))


def _with_all_fields(data: dict) -> dict:
    """A recipe that was kept, with what fields that came later are without being set."""
    try:
        return json.loads(_json_of(read_record(Recipe, data, "recipe")))
    except LiDiTError:  # of a version that knew other fields
        return data


def _note_recipe(recipe: Recipe, out: Path) -> None:
    """Keep the recipe, and which files it names, with the run that it begins or goes on with."""
    with replacing(out / RECIPE) as beside:
        # half a surrogate pair in a prompt stays what JSON escapes it as
        beside.write_text(_json_of(recipe), encoding="utf-8", errors="backslashreplace")
    keep_hashes(recipe, out)


def _differences(old, new, name: str = "") -> list[str]:
    """Tell everything that is not the same, as in ``stages.0.images was 10, is 20``."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted({*old, *new})
        pairs = [(old.get(k), new.get(k), f"{name}.{k}".lstrip(".")) for k in keys]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(a, b, f"{name}.{i}") for i, (a, b) in enumerate(zip(old, new))]
    else:
        return [] if old == new else [f"{name} was {old!r}, is {new!r}"]
    return [told for pair in pairs for told in _differences(*pair)]
