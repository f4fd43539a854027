"""What a frozen U-Net makes of the conditioning that a bridge writes.

Shapes: B prompts, K rows of conditioning, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lidit_core.bridge.encode import MASK, POOLED, restored
from lidit_core.bridge.model import Bridge
from lidit_core.diffusion.objectives import model_timestep
from lidit_core.io.conditioning import Entry

from ....recipe import Loss
from ...adapter.target import UNetTarget, pooled_width
from ...adapter.unet import (
    BaseUNet,
    blocks_of,
    checkpoint_blocks,
    first_blocks,
    predicted,
    read_unet,
    tell_schedule,
)
from ..batches import BridgeBatch
from ..learner import BridgeLearner
from ..start import attended


@dataclass(frozen=True, eq=False)
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


class UNetLearner(BridgeLearner):
    """A bridge whose conditioning a frozen U-Net reads.

    Args:
        empty: the empty prompt's conditioning, as it was recorded.
    """

    def __init__(
        self, bridge: Bridge, empty: Entry, base: BaseUNet, loss: Loss, checkpointing: bool = False
    ) -> None:
        super().__init__(bridge)
        self.unet = base.unet.requires_grad_(False).eval()
        self.recorded, self.prediction, self.loss = empty, base.prediction, loss
        self.pooled = bool(pooled_width(base.shape))  # whether it reads SDXL's pooled text
        if checkpointing:
            checkpoint_blocks(self.unet)
        if not self.pooled:
            _freeze_pooled(bridge)

    def blocks(self) -> list[nn.Module]:
        """The bridge's blocks, then the U-Net's."""
        return [*super().blocks(), *blocks_of(self.unet)]

    def written(self, batch: BridgeBatch, bridge: Bridge | None = None) -> Context:
        """What a bridge makes of prompts, in the form that the U-Net reads.

        Args:
            bridge: None = the one that learns.
        """
        bridge = bridge or self.bridge
        assert batch.rows is not None  # every batch has them
        out = bridge(batch.students, batch.rows, own=batch.own)
        return self.context(batch, *restored(bridge.base, out, batch.rows))

    def context(self, batch: BridgeBatch, sequence: Tensor, pooled: Tensor | None) -> Context:
        """Conditioning in the rows of a batch, in that form."""
        assert batch.rows is not None
        seen = attended(batch.rows, self.bridge.config.teacher.masked)
        whole = bool(seen.all())
        return Context(sequence, None if whole else seen, pooled if self.pooled else None)

    def empty(self, count: int, device: torch.device) -> Context:
        """The empty prompt so many times, as it was recorded."""
        sequence, values = self.recorded
        mask, pooled = values.get(MASK), values.get(POOLED)
        seen = None if mask is None else mask.bool().to(device)
        pooled = pooled.float().to(device) if self.pooled and pooled is not None else None
        return Context(sequence.float().to(device), seen, pooled).repeated(count)

    def predict(self, z: Tensor, time: Tensor, context: Context, blocks: int = 0) -> Tensor:
        """What the U-Net says of noisy latents (B, C, h, w) at times (B,).

        Args:
            blocks: after so many it ends with its hidden state; 0 = its prediction.
        """
        return self.say(z, model_timestep(self.prediction, time), context, blocks)

    def say(self, z: Tensor, t: Tensor, context: Context, blocks: int = 0) -> Tensor:
        """The same at timesteps t (B,) in [0, 1000]."""
        unet = first_blocks(self.unet, blocks) if blocks else self.unet
        read = context.rows, context.seen, context.pooled
        return predicted(unet, z, t, *read).float()


def opened(unet: UNetTarget) -> BaseUNet:
    """The U-Net that a bridge learns through, with its weights."""
    base = read_unet(unet.base, unet.asked)
    tell_schedule(base, "the bridge")
    return base


def _freeze_pooled(bridge: Bridge) -> None:
    """The map to the pooled vector stays as it is, for no loss reaches it."""
    for name, parameter in bridge.named_parameters():
        if ".out_pooled." in name:
            parameter.requires_grad_(False)
