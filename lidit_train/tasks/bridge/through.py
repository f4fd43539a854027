"""The loss of a bridge through a frozen U-Net: what that predicts, beside what it should.

Shapes: B prompts, P points of each one's trajectory, K rows of conditioning, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from lidit_core.bridge.encode import MASK, POOLED, restored
from lidit_core.bridge.model import Bridge
from lidit_core.diffusion.objectives import add_noise, clean_and_noise, guided, model_timestep

from ...batch import Batch
from ...recipe import Loss
from ..adapter.unet import blocks_of, checkpoint_blocks, predicted
from ..weighting import element_errors, sample_weights
from .batches import BridgeBatch
from .input import RecordedPrompts
from .learner import BridgeLearner
from .start import attended

if TYPE_CHECKING:
    from ..adapter.unet import UNet2DConditionModel


@dataclass(frozen=True)
class Context:
    """What a U-Net reads of prompts."""

    rows: Tensor  # (B, K, width)
    seen: Tensor | None  # (B, K) bool, which of them; None = all
    pooled: Tensor | None  # (B, width), of SDXL

    def repeated(self, times: int) -> Context:
        """Each prompt so many times, one after the other."""
        seen, pooled = (
            None if x is None else x.repeat_interleave(times, 0) for x in (self.seen, self.pooled)
        )
        return Context(self.rows.repeat_interleave(times, 0), seen, pooled)


@dataclass(frozen=True)
class Points:
    """Where trajectories were looked at."""

    z: Tensor  # (B, P, C, h, w)
    time: Tensor  # (B, P)
    wanted: Tensor  # (B, P, C, h, w): the prediction under what the encoder wrote


class ThroughLearner(BridgeLearner):
    """A bridge whose conditioning is to move a frozen U-Net as the recorded encoder's does.

    Args:
        prediction: of the U-Net, "eps" or "v".
        pooled: whether it reads SDXL's pooled text.
    """

    def __init__(
        self,
        bridge: Bridge,
        prompts: RecordedPrompts,
        unet: UNet2DConditionModel,
        prediction: str,
        pooled: bool,
        loss: Loss,
        checkpointing: bool = False,
    ) -> None:
        super().__init__(bridge, prompts)
        self.unet = unet.requires_grad_(False).eval()
        self.prediction, self.pooled, self.loss = prediction, pooled, loss
        if checkpointing:
            checkpoint_blocks(unet)
        if not pooled:
            _freeze_pooled(bridge)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss (), and the squared errors (B, P) of predictions."""
        batch = cast(BridgeBatch, batch)
        points = self.points(batch)
        output = self.predicted(points, self.written(batch))
        wanted, time = points.wanted.flatten(0, 1), points.time.flatten()
        losses = element_errors(self.loss, self.prediction, time, output, wanted).mean((1, 2, 3))
        losses = losses * sample_weights(self.loss, self.prediction, time)
        return losses.mean(), squared(output, points).detach()

    def blocks(self) -> list[nn.Module]:
        """Those of the bridge, then the U-Net's."""
        return [*super().blocks(), *blocks_of(self.unet)]

    def written(self, batch: BridgeBatch, bridge: Bridge | None = None) -> Context:
        """What a bridge makes of prompts, in the form that the U-Net reads.

        Args:
            bridge: None = the one that learns.
        """
        bridge = bridge or self.bridge
        assert batch.rows is not None  # every batch has them
        out = bridge(batch.students, batch.rows, own=batch.own)
        return self._context(batch, *restored(bridge.base, out, batch.rows))

    def empty(self, count: int, device: torch.device) -> Context:
        """The empty prompt so many times, as it was recorded."""
        sequence, values = self.prompts.empty
        mask, pooled = values.get(MASK), values.get(POOLED)
        seen = None if mask is None else mask.bool().to(device)
        pooled = pooled.float().to(device) if self.pooled and pooled is not None else None
        return Context(sequence.float().to(device), seen, pooled).repeated(count)

    def predicted(self, points: Points, context: Context) -> Tensor:
        """(B P, C, h, w): what the U-Net says at every point, given its prompt's conditioning."""
        z, time = points.z.flatten(0, 1), points.time.flatten()
        return self._predict(z, time, context.repeated(points.time.shape[1]))

    @torch.no_grad()
    def points(self, batch: BridgeBatch) -> Points:
        """Go along each trajectory by what the recorded encoder wrote, up to its last point."""
        drawn = batch.trajectories
        assert drawn is not None  # the loader draws them
        recorded = self._context(batch, batch.x, batch.pooled)
        empty = self.empty(len(batch), drawn.noise.device)
        scale = drawn.guidance[:, None, None, None]
        z, passed, said = drawn.noise, [], []
        last = int(drawn.points.max())
        for step in range(last + 1):
            time = drawn.times[:, step]
            asked = self._predict(z, time, recorded)
            passed.append(z)
            said.append(asked)
            if step < last:
                output = guided(asked, self._predict(z, time, empty), scale)
                made = clean_and_noise(self.prediction, z, output, time)
                z = add_noise(self.prediction, *made, drawn.times[:, step + 1])
        rows = torch.arange(len(batch), device=z.device)[:, None]
        z, wanted = (torch.stack(x, dim=1)[rows, drawn.points] for x in (passed, said))
        return Points(z, drawn.learnt, wanted)

    def _context(self, batch: BridgeBatch, sequence: Tensor, pooled: Tensor | None) -> Context:
        assert batch.rows is not None
        seen = attended(batch.rows, self.prompts)
        whole = bool(seen.all())
        return Context(sequence, None if whole else seen, pooled if self.pooled else None)

    def _predict(self, z: Tensor, time: Tensor, context: Context) -> Tensor:
        t = model_timestep(self.prediction, time)
        read = context.rows, context.seen, context.pooled
        return predicted(self.unet, z, t, *read).float()


def squared(output: Tensor, points: Points) -> Tensor:
    """Mean squared errors (B, P) of predictions (B P, C, h, w)."""
    errors = (output - points.wanted.flatten(0, 1)).square().mean((1, 2, 3))
    return errors.unflatten(0, points.time.shape)


def _freeze_pooled(bridge: Bridge) -> None:
    """The map to the pooled vector stays as it is, for no loss reaches it."""
    for name, parameter in bridge.named_parameters():
        if ".out_pooled." in name:
            parameter.requires_grad_(False)
