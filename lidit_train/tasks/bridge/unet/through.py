"""The loss of a bridge on what a frozen U-Net makes of its conditioning, beside what it should.

Shapes: B prompts, P points of each one's trajectory, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from lidit_core.diffusion.objectives import add_noise, clean_and_noise, guided

from ....batch import Batch
from ...weighting import element_errors, sample_weights
from .batches import ThroughBatch
from .learner import Context, UNetLearner


@dataclass(frozen=True)
class Points:
    """Where trajectories were looked at."""

    z: Tensor  # (B, P, C, h, w)
    time: Tensor  # (B, P)
    wanted: Tensor  # (B, P, C, h, w): the prediction under what the encoder wrote


class ThroughLearner(UNetLearner):
    """A bridge whose conditioning is to move a frozen U-Net as the recorded encoder's does."""

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss (), and the squared errors (B, P) of predictions."""
        batch = cast(ThroughBatch, batch)
        points = self.points(batch)
        output = self.predicted(points, self.written(batch))
        wanted, time = points.wanted.flatten(0, 1), points.time.flatten()
        losses = element_errors(self.loss, self.prediction, time, output, wanted).mean((1, 2, 3))
        losses = losses * sample_weights(self.loss, self.prediction, time)
        return losses.mean(), squared(output, points).detach()

    def predicted(self, points: Points, context: Context) -> Tensor:
        """(B P, C, h, w): what the U-Net says at every point, given its prompt's conditioning."""
        z, time = points.z.flatten(0, 1), points.time.flatten()
        return self.predict(z, time, context.repeated(points.time.shape[1]))

    @torch.no_grad()
    def points(self, batch: ThroughBatch) -> Points:
        """Go along each trajectory by what the recorded encoder wrote, up to its last point."""
        drawn = batch.trajectories
        assert drawn is not None  # the loader draws them
        recorded = self.context(batch, batch.x, batch.pooled)
        empty = self.empty(len(batch), drawn.noise.device)
        scale = drawn.guidance[:, None, None, None]
        z, passed, said = drawn.noise, [], []
        last = int(drawn.points.max())
        for step in range(last + 1):
            time = drawn.times[:, step]
            asked = self.predict(z, time, recorded)
            passed.append(z)
            said.append(asked)
            if step < last:
                output = guided(asked, self.predict(z, time, empty), scale)
                made = clean_and_noise(self.prediction, z, output, time)
                z = add_noise(self.prediction, *made, drawn.times[:, step + 1])
        rows = torch.arange(len(batch), device=z.device)[:, None]
        z, wanted = (torch.stack(x, dim=1)[rows, drawn.points] for x in (passed, said))
        return Points(z, drawn.learnt, wanted)


def squared(output: Tensor, points: Points) -> Tensor:
    """Mean squared errors (B, P) of predictions (B P, C, h, w)."""
    errors = (output - points.wanted.flatten(0, 1)).square().mean((1, 2, 3))
    return errors.unflatten(0, points.time.shape)
