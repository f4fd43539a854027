"""The loss of a bridge on what a frozen U-Net makes of its conditioning, beside what it should.

Shapes: B prompts, P points of each one's trajectory, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from lidit_core.bridge.model import Bridge
from lidit_core.diffusion.objectives import add_noise, clean_and_noise, guided
from lidit_core.io.conditioning import Entry

from ....batch import Batch
from ....recipe import Loss
from ...adapter.unet import BaseUNet
from ...weighting import element_errors, sample_weights
from .batches import ThroughBatch
from .learner import Context, UNetLearner


@dataclass(frozen=True, eq=False)
class Points:
    """The points at which trajectories were looked at."""

    z: Tensor  # (B, P, C, h, w)
    time: Tensor  # (B, P)
    wanted: Tensor  # (B, P, C', h', w'): what the U-Net says under what the encoder wrote


class ThroughLearner(UNetLearner):
    """A bridge whose conditioning is to move a frozen U-Net as the recorded encoder's does.

    Args:
        of_blocks: of the U-Net, whose hidden state is compared; 0 = its prediction is.
    """

    def __init__(
        self,
        bridge: Bridge,
        empty: Entry,
        base: BaseUNet,
        loss: Loss,
        checkpointing: bool = False,
        of_blocks: int = 0,
    ) -> None:
        super().__init__(bridge, empty, base, loss, checkpointing)
        self.of_blocks = of_blocks

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss (), and the squared errors (B, P) of predictions, or of hidden states.

        A hidden state is divided by the root mean square of the one that is wanted.
        """
        batch = cast(ThroughBatch, batch)
        points = self.points(batch, self.of_blocks)
        output = self.predicted(points, self.written(batch), self.of_blocks)
        if self.of_blocks:
            size = points.wanted.square().mean((2, 3, 4), keepdim=True).sqrt().clamp(min=1e-6)
            points = replace(points, wanted=points.wanted / size)
            output = output / size.flatten(0, 1)
        wanted, time = points.wanted.flatten(0, 1), points.time.flatten()
        losses = element_errors(self.loss, self.prediction, time, output, wanted).mean((1, 2, 3))
        losses = losses * sample_weights(self.loss, self.prediction, time)
        return losses.mean(), squared(output, points).detach()

    def predicted(self, points: Points, context: Context, blocks: int = 0) -> Tensor:
        """What the U-Net says at every point, given its prompt's conditioning: (B P, C, h, w).

        Args:
            blocks: after so many its hidden state; 0 = its prediction.
        """
        z, time = points.z.flatten(0, 1), points.time.flatten()
        return self.predict(z, time, context.repeated(points.time.shape[1]), blocks)

    @torch.no_grad()
    def points(self, batch: ThroughBatch, blocks: int = 0) -> Points:
        """Go along each trajectory by what the recorded encoder wrote, up to its last point.

        Args:
            blocks: after so many the hidden state is wanted; 0 = the prediction.
        """
        drawn = batch.trajectories
        assert drawn is not None  # the loader draws them
        recorded = self.context(batch, batch.x, batch.pooled)
        empty = self.empty(len(batch), drawn.noise.device)
        scale = drawn.guidance[:, None, None, None]
        z, passed, said = drawn.noise, [], []
        last = int(drawn.points.max())
        for step in range(last + 1):
            time = drawn.times[:, step]
            passed.append(z)
            if blocks and step == last:
                break  # whose prediction nothing needs
            asked = self.predict(z, time, recorded)
            said.append(asked)
            if step < last:
                output = guided(asked, self.predict(z, time, empty), scale)
                made = clean_and_noise(self.prediction, z, output, time)
                z = add_noise(self.prediction, *made, drawn.times[:, step + 1])
        rows = torch.arange(len(batch), device=z.device)[:, None]
        z = torch.stack(passed, dim=1)[rows, drawn.points]
        if not blocks:
            return Points(z, drawn.learnt, torch.stack(said, dim=1)[rows, drawn.points])
        found = self.predicted(Points(z, drawn.learnt, z), recorded, blocks)
        return Points(z, drawn.learnt, found.unflatten(0, drawn.points.shape))


def squared(output: Tensor, points: Points) -> Tensor:
    """Mean squared errors (B, P) of predictions (B P, C, h, w)."""
    errors = (output - points.wanted.flatten(0, 1)).square().mean((1, 2, 3))
    return errors.unflatten(0, points.time.shape)
