"""How well a U-Net follows a bridge as it follows the recorded encoder, on held-out prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import cast

import torch
from accelerate import Accelerator
from torch import Tensor

from lidit_core.bridge.model import Bridge

from ....data.schedule import name_number, seeded
from ....learner import Learner
from ....loop.computing.frozen import computing, holds_half
from ....loop.validating.held_out_loss import LOSS
from ....recipe import Recipe, Through
from ..batches import PreparedBridge
from .batches import ThroughBatch
from .through import Points, ThroughLearner, squared
from .trajectories import CHANCE, even

GAP = "text gap kept"  # in the log and the file
MOST = 64  # prompts
TOGETHER = 4  # of them at once


class HeldOutPrompts:
    """Measures a bridge through a U-Net, always on the same trajectories.

    The error of a prompt is the mean squared one of the U-Net's prediction, beside that under what
    the recorded encoder wrote. The text gap is by how much less that is than the error with the
    empty prompt; under the encoder's own conditioning, whose error is 0, it is all of the latter.

    Args:
        shape: of latents, (C, h, w).
    """

    def __init__(
        self, recipe: Recipe, ready: PreparedBridge, shape: Sequence[int], accelerator: Accelerator
    ) -> None:
        assert recipe.bridge is not None and recipe.bridge.through is not None
        self.ready, self.accelerator = ready, accelerator
        self.options: Through = recipe.bridge.through
        self.asked, self.shape = recipe.validation, tuple(shape)
        self.half = holds_half(recipe.compute, accelerator.mixed_precision == "bf16")
        spread = max(1, len(ready.held_out) // MOST)
        self.numbers = list(ready.held_out[::spread][:MOST])
        self._known: dict[int, tuple[Points, Tensor]] = {}

    def told(self) -> str:
        """What is measured, for the log."""
        return (
            f"{len(self.numbers)} prompts are held out and measured at {self.asked.times} points "
            "of a trajectory each"
        )

    def identity(self) -> str:
        """The hash of what is measured, 16 letters; losses of another hash do not compare."""
        texts = [self.ready.prompts.texts[n] for n in self.numbers]
        drawn = ("base", "prediction", "steps", "points", "guidance")  # whatever the loss is on
        options = ", ".join(f"{name}={getattr(self.options, name)!r}" for name in drawn)
        of = f"({self.asked.seed}, {self.asked.times}, Through({options}), {self.shape}, {texts})"
        return hashlib.sha256(of.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def measure(self, learner: Learner) -> dict[str, float]:
        """The held-out loss and the text gap that is kept; every process must call."""
        world, mine = self.accelerator.num_processes, self.accelerator.process_index
        sums = self._sums(cast(ThroughLearner, learner), self._parts()[mine::world])
        reduced = self.accelerator.reduce(sums.to(self.accelerator.device, torch.float32), "sum")
        return self._told(cast(Tensor, reduced))

    def of(self, learner: ThroughLearner, bridge: Bridge) -> dict[str, float]:
        """The same of any bridge, by this process alone."""
        return self._told(self._sums(learner, self._parts(), bridge))

    def _parts(self) -> list[list[int]]:
        firsts = range(0, len(self.numbers), TOGETHER)
        return [self.numbers[first : first + TOGETHER] for first in firsts]

    def _told(self, sums: Tensor) -> dict[str, float]:
        error, empty, count = sums.tolist()
        return {LOSS: error / count, GAP: 1 - error / max(empty, 1e-12)}

    @torch.no_grad()
    def _sums(
        self, learner: ThroughLearner, parts: list[list[int]], bridge: Bridge | None = None
    ) -> Tensor:
        """Errors of the bridge, of the empty prompt, and how many of each."""
        sums = torch.zeros(3, dtype=torch.float64)
        for part in parts:
            batch = self._batch(part).to(self.accelerator.device)
            with computing(self.accelerator, self.half):
                points, empty = self._points(learner, part[0], batch)
                errors = squared(learner.predicted(points, learner.written(batch, bridge)), points)
            pair = [x.double().sum().cpu() for x in (errors, empty)]
            sums += torch.stack([*pair, torch.tensor(float(errors.numel()))])
        return sums

    def _batch(self, numbers: list[int]) -> ThroughBatch:
        texts = [self.ready.prompts.texts[n] for n in numbers]
        chances = [seeded(self.asked.seed, name_number(text), CHANCE) for text in texts]
        each = [even(self.options, self.shape, self.asked.times, chance) for chance in chances]
        return ThroughBatch.of(self.ready.batch(numbers), each)

    def _points(
        self, learner: ThroughLearner, first: int, batch: ThroughBatch
    ) -> tuple[Points, Tensor]:
        """The points of a part and the empty prompt's errors there, which are computed once."""
        if first not in self._known:
            points = learner.points(batch)
            empty = learner.predicted(points, learner.empty(len(batch), points.z.device))
            kept = Points(points.z.cpu(), points.time.cpu(), points.wanted.cpu())
            self._known[first] = kept, squared(empty, points).cpu()
        kept, empty = self._known[first]
        moved = (x.to(self.accelerator.device) for x in (kept.z, kept.time, kept.wanted))
        return Points(*moved), empty
