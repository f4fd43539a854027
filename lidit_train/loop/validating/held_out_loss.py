"""The loss of pictures that are held out, over all processes."""

from __future__ import annotations

from typing import cast

import torch
from accelerate import Accelerator
from torch import Tensor

from ...data.held_out import HeldOut
from ...data.loader import Loader
from ...learner import Learner
from ..computing.frozen import computing

LOSS = "held-out loss"  # in the log and trackers


class HeldOutLoss:
    """Measures a learner: the mean squared error on its objective's target, whatever it learns by.

    Args:
        loader: completes what is read, as in training.
        half: whether frozen weights are held in bf16.
    """

    def __init__(
        self, held_out: HeldOut, loader: Loader, accelerator: Accelerator, half: bool
    ) -> None:
        self.held_out, self.loader, self.accelerator, self.half = (
            held_out, loader, accelerator, half,
        )  # fmt: skip

    def told(self) -> str:
        """How many pictures are measured, for the log."""
        return self.held_out.told()

    def identity(self) -> str:
        """The hash of what is measured, 16 letters; losses of another hash do not compare."""
        return self.held_out.identity()

    @torch.no_grad()
    def measure(self, learner: Learner) -> dict[str, float]:
        """The mean over all pictures and times, and that of each time; every process must call.

        Every process has as many batches, for a divided model computes in all of them at once;
        one that has none left takes the first again and does not count it.
        """
        world, mine = self.accelerator.num_processes, self.accelerator.process_index
        times, count = self.held_out.times, len(self.held_out)
        sums = torch.zeros(2, len(times), dtype=torch.float64)
        for first in range(0, count, world):
            number = first + mine
            errors, places = self._errors(learner, number if number < count else 0)
            if number < count:
                sums[0].index_add_(0, places, errors)
                sums[1].index_add_(0, places, torch.ones_like(errors))
        reduced = self.accelerator.reduce(sums.to(self.accelerator.device), "sum")
        totals, counts = cast(Tensor, reduced).cpu()
        by_time = {
            f"{LOSS} at {time:.3g}": mean
            for time, mean in zip(times.tolist(), (totals / counts).tolist())
        }
        return {LOSS: (totals.sum() / counts.sum()).item(), **by_time}

    def _errors(self, learner: Learner, number: int) -> tuple[Tensor, Tensor]:
        """Errors (B,) float64 of a batch on the CPU, and the places of its times."""
        batch = self.loader.complete(self.held_out.read(number))
        with computing(self.accelerator, self.half):
            _, errors = learner(batch)
        places = [sample.time for sample in self.held_out.batches[number].samples]
        return errors.double().cpu(), torch.tensor(places)
