"""The loop: batches in, steps, and everything that lets a run die and go on."""

from __future__ import annotations

import logging
import math
import signal
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)

from lidit_core.errors import LiDiTError, listed

from ..batch import Batch
from ..data.loader import Loader
from ..data.schedule import stage_at
from ..learner import Learner
from ..recipe import Recipe
from .checkpoints import CheckpointFolder, decayed_to, tell_longer, tell_place, tell_stage
from .computing.cpu import computes_in_bf16
from .computing.cuda_graph import replayed
from .computing.frozen import computing, holds_half
from .journal import Journal, Losses
from .learning_rate import decay_factor, decay_start, learning_rate
from .longest_prompt import LongestPrompts
from .optimisers import average_of, optimisers_of
from .parallel import check_finite, is_sharded, together, whole
from .stopping import Signals, Stopped
from .validating.validator import Validator
from .voice import of_all

log = logging.getLogger(__name__)

TRAINED = StateDictOptions(ignore_frozen_params=True, strict=False)


class Trainer:
    """One run in its folder.

    Args:
        learner: on the device, with what is not trained frozen.
        loader: over the schedule that a checkpoint may set forward.
        folder: of the run: checkpoints, log and grids.
    """

    def __init__(
        self,
        recipe: Recipe,
        learner: Learner,
        loader: Loader,
        accelerator: Accelerator,
        folder: Path,
    ) -> None:
        self.recipe, self.learner, self.loader = recipe, learner, loader
        self.stop, self.stopped = Signals(), False
        self.write: Callable[[int], object] = lambda step: None  # after each save, by all
        self.accelerator, self.schedule = accelerator, loader.schedule
        if recipe.compute.compile:
            for block in learner.blocks():
                block.compile()
        self.cpu_bf16 = computes_in_bf16(recipe.compute, accelerator.device)
        mixed = accelerator.mixed_precision == "bf16"
        self.half = self.cpu_bf16 or holds_half(recipe.compute, mixed)
        self.parallel = together(learner, accelerator, recipe.compute)
        self.replayed = replayed(self._run, learner, recipe.compute, accelerator)
        self.optimisers = optimisers_of(learner, recipe.optimiser)
        self.ema = average_of(learner, recipe.optimiser, self.optimisers)
        self.checkpoints = CheckpointFolder(folder, recipe.checkpoints.keep, accelerator)
        self.journal = Journal(folder, recipe.log, accelerator, recipe.steps, asdict(recipe))
        self.validator = Validator(
            recipe.validation,
            recipe.checkpoints.weights == "plain",
            learner,
            self.ema,
            self.journal,
        )
        if accelerator.num_processes == 1:  # several end what they compute together
            self.validator.within = self.stop.interrupting
        self.longest = LongestPrompts(loader.llms)
        self.step, self.bad, self.skipped, self.begun = 0, 0, 0, False
        self.broken: set[tuple[int, int]] = set()  # source and place of what cannot be decoded
        self.told: set[tuple[int, int]] = set()  # of those
        self.losses = self.no_losses()  # since the log's last line
        self.decay_start = decay_start(recipe.steps, recipe.optimiser.decay)

    def train(self, on_step: Callable[[int, float], None] = lambda step, loss: None) -> None:
        """Go on from the newest checkpoint to the recipe's last step, which is saved too.

        So is the last step before the decay, from which a run that is lengthened goes on.

        Raises:
            Stopped: by Ctrl-C or SIGTERM; the step that was under way is saved.
        """
        self.begin()
        with self.stop:
            self._steps(on_step)
        self._check_learnt()

    def begin(self) -> None:
        """Take up the newest checkpoint and open the log there; once."""
        if not self.begun:
            self.resume()
            self.journal.begin(self.step)
            self.begun = True

    def _steps(self, on_step: Callable[[int, float], None]) -> None:
        if self.step == 0 or self.validator.owed:
            self.validator.see(self.step)
            self._end_if_stopped()
        if self.validator.is_over():  # as a run is that ended early and is started again
            return self.validator.tell_over(self.step, self.recipe.steps)
        for fetched, batch in self.loader:
            self.broken |= set(fetched.replaced)
            loss, norm = self.train_step(batch, self.losses)
            self.longest.see(batch.used)
            self.losses.step(loss, norm, len(fetched.plan.rows))
            on_step(self.step, loss)
            saves = self.step % self.recipe.checkpoints.every == 0 or self.step == self.recipe.steps
            if saves or self.step % self.recipe.log.every == 0:
                self._write(self.losses)
                self.losses = self.no_losses()
            self.validator.see(self.step, later=self.stopped)
            over = self.validator.is_over()
            stops = self.stopped or self.validator.owed
            if saves or over or self.step == self.decay_start or stops:
                self.save(fetched.plan.position)
                self.write(self.step)
                self.journal.pause()
            if over:
                return self.validator.tell_over(self.step, self.recipe.steps)
            self._end_if_stopped()

    def _end_if_stopped(self) -> None:
        if self.validator.owed or (self.stopped and self.step < self.recipe.steps):
            raise Stopped(self.stop.number or signal.SIGTERM, self.step, self.recipe.steps)

    def _check_learnt(self) -> None:
        if self.step and self.skipped == self.step:
            raise LiDiTError(
                f"nothing was learnt, for the gradient was no number in any of the {self.step} "
                "steps; expected some that count: lower optimiser.learning_rate, look at the "
                "captions and pictures, and begin in another folder with --out"
            )

    def weights(self, averaged: bool = True) -> dict[str, torch.Tensor]:
        """The learner's weights, with their averages in place or not, whole; all must ask."""
        plain = self.learner.state_dict()
        return {k: whole(v) for k, v in (self.ema.over(plain) if averaged else plain).items()}

    def _rate(self, step: int) -> float:
        return learning_rate(step, self.recipe.optimiser, self.recipe.stages)

    def train_step(self, batch: Batch, losses: Losses) -> tuple[float, float]:
        """Train one step; return the mean loss of all processes and the gradient's norm."""
        rate = self._rate(self.step)
        of_share = self._backward(batch, losses)
        trained = [p for p in self.learner.parameters() if p.grad is not None]
        clip = self.recipe.optimiser.clip or math.inf
        of_all = whole(torch.nn.utils.clip_grad_norm_(trained, clip))
        loss, norm = self._looked_at(of_share, of_all)
        if self._is_good(norm):
            self._update(rate)
        for optimiser in self.optimisers:
            optimiser.zero_grad()
        self.step += 1
        return loss, norm

    def _looked_at(self, loss: torch.Tensor, norm: torch.Tensor) -> tuple[float, float]:
        """The mean loss of all processes, and the gradient's norm, which is that of all.

        The processes learn too whether one of them is to stop. Nothing else of a step waits for the
        device, which computes the update while the next step is begun.
        """
        stop = loss.new_full((), float(self.stop.number))
        told = torch.stack([loss, norm.to(loss), stop])
        told = cast(torch.Tensor, self.accelerator.reduce(told, "mean"))
        mean, length, stops = told.tolist()
        self.stopped = stops > 0
        return mean, length

    def _backward(self, batch: Batch, losses: Losses) -> torch.Tensor:
        """Gradients of the whole share, a micro batch at a time; this process's loss."""
        if self.replayed:
            loss, errors = self.replayed(batch)
            losses.add(errors, batch.time)
            return loss
        done, total = 0, torch.zeros((), device=batch.x.device)
        for part in batch.micro_batches(self.recipe.compute.micro_batch):
            done += len(part)
            with self._gradients_shared(done == len(batch)):
                loss, errors = self._run(part, len(part) / len(batch))
            losses.add(errors, part.time)
            total += loss
        return total

    def _run(self, batch: Batch, weight: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Forward and backward pass: the loss (), weighted, and the errors (B,).

        The backward pass is outside of autocast, as PyTorch advises: each operation has the dtype
        of its forward one, and what keeps float32 there keeps it.
        """
        with computing(self.accelerator, self.half):
            loss, errors = self.parallel(batch)
        loss = loss * weight
        loss.backward()
        return loss.detach(), errors

    def _gradients_shared(self, now: bool):
        """Copies average their gradients with the last micro batch; divided models with each."""
        if now or is_sharded(self.learner):
            return torch.enable_grad()
        return self.accelerator.no_sync(self.parallel)

    def _update(self, rate: float) -> None:
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
            with torch.autocast("cpu", torch.bfloat16, enabled=self.cpu_bf16):  # Muon's products
                optimiser.step()
        self.ema.update(self.learner)

    def _is_good(self, norm: float) -> bool:
        """Whether the gradient is a number; it is the same in every process."""
        if math.isfinite(norm):
            self.bad = 0
            return True
        self.bad, self.skipped = self.bad + 1, self.skipped + 1
        log.warning("step %d is skipped: its gradient is no number", self.step)
        if self.bad >= self.recipe.optimiser.bad_steps:
            raise LiDiTError(
                f"the gradient was no number for {self.bad} steps up to step {self.step}; lower "
                "optimiser.learning_rate and start the same command again, which goes on from the "
                "last checkpoint"
            )
        return False

    def no_losses(self) -> Losses:
        """Sums that begin anew."""
        return Losses(self.recipe.log.time_bins, self.accelerator.device)

    def _write(self, losses: Losses) -> None:
        extra = {"rate": self._rate(self.step - 1), "skipped": self.skipped}
        line = {**losses.line(self.accelerator), **extra, **self.learner.noted()}
        line = self.journal.write(self.step, line, losses.images)
        told = self.step, self.recipe.steps, line.get("loss", math.nan), line["images/s"]
        log.info("step %d of %d: loss %.4f, %.1f images/s", *told)
        self._tell_broken()

    def _tell_broken(self) -> None:
        """Name, once, what a process could not decode; every process must ask."""
        new = set(of_all(self.accelerator, sorted(self.broken - self.told)))
        self.told |= new
        for source, index in sorted(new):
            name = self.loader.name(source, index)
            place = self.recipe.data.sources[source].path
            log.warning("%s of %s cannot be decoded; the next is taken in its place", name, place)

    def save(self, position: dict[str, int]) -> None:
        """Write a checkpoint; ``position`` is how far the data has been read."""
        numbers = {"step": self.step, "skipped": self.skipped, "ema_steps": self.ema.steps}
        schedule = {"stage": self._stage(), "decay_factor": self._decay_factor(self.step)}
        losses = self.losses.state(self.accelerator)
        longest = self.longest.gather(self.accelerator)
        numbers |= {**schedule, "losses": losses, "longest_prompts": longest, "position": position}
        numbers["best"] = self.validator.state()
        state = self._state()
        check_finite({**state["ema"], **state["learner"]}, self.accelerator, self.step)
        self.checkpoints.save(self.step, state, numbers)

    def _stage(self) -> int:
        """The stage of the step before the present one."""
        return stage_at(self.step - 1, self.recipe.stages)[0]

    def _decay_factor(self, step: int) -> float:
        """What the recipe's decay leaves of the rate at the last of so many steps."""
        o = self.recipe.optimiser
        return decay_factor(step - 1, self.recipe.steps, o.decay, o.schedule)

    def resume(self) -> None:
        """Take up the newest checkpoint that can be read; an older one where it cannot."""
        found = self._on_the_way()
        for number, (_, path) in enumerate(found):
            try:
                numbers = self._take_up(*self.checkpoints.load(path, self._state()))
            except LiDiTError as error:
                if number == len(found) - 1:
                    raise
                log.warning("%s", error)
                continue
            tell_stage(self.step, numbers.get("stage", self._stage()), self._stage())
            return tell_place(self.step, self.recipe.steps)

    def take_up_step(self, step: int) -> None:
        """Take up the checkpoint that follows a step."""
        found = dict(self.checkpoints.found())
        if step not in found:
            there = listed(sorted(found)) or "none"
            raise LiDiTError(
                f"{self.checkpoints.folder} has no checkpoint of step {step}; expected one of "
                f"those that it has: {there}"
            )
        self._take_up(*self.checkpoints.load(found[step], self._state()))

    def _on_the_way(self) -> list[tuple[int, Path]]:
        """Step and folder of each checkpoint, the newest first; none of a shorter run's decay.

        Where those are all there is, they are taken, and it is told that the rate rises again.
        """
        found = self.checkpoints.found()
        good = [
            (step, path) for step, path in found if decayed_to(path) >= self._decay_factor(step)
        ]
        if good != found:
            step, path = found[0]
            rises = self._decay_factor(step)
            tell_longer(step, decayed_to(path), rises, good[0][0] if good else None)
        return good or found

    def _state(self) -> dict[str, Any]:
        """Everything that is a tensor, by names that fit any number of processes."""
        weights, optimisers = get_state_dict(self.learner, self.optimisers, options=TRAINED)
        return {"learner": weights, "optimisers": optimisers, "ema": dict(self.ema.weights)}

    def _take_up(self, state: dict[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
        set_state_dict(
            self.learner,
            self.optimisers,
            model_state_dict=state["learner"],
            optim_state_dict=state["optimisers"],
            options=TRAINED,
        )
        self.ema.weights, self.ema.steps = state["ema"], numbers["ema_steps"]
        self.longest.take_up(numbers.get("longest_prompts"))
        self.validator.take_up(numbers.get("best"))
        self.step, self.skipped = numbers["step"], numbers["skipped"]
        self.schedule.step, self.schedule.position = self.step, dict(numbers["position"])
        self.losses = self.no_losses()
        if "losses" in numbers:
            self.losses.load_state(numbers["losses"], self.accelerator)
        return numbers
