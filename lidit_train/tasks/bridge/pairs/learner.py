"""The loss of a bridge on captioned pictures: that of the U-Net under what it writes."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from lidit_core.bridge.rows import TEXT

from ....batch import Batch
from ...denoising import denoise
from ..batches import BridgeBatch
from ..unet.learner import Context, UNetLearner


class PairsLearner(UNetLearner):
    """A bridge that learns by how well a frozen U-Net denoises pictures under what it writes."""

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss (), and each picture's squared error (B,)."""
        context = self.read(cast(BridgeBatch, batch))

        def predict(z: Tensor, t: Tensor) -> Tensor:
            return self.say(z, t, context)

        made = denoise(self.prediction, batch, predict, self.loss)
        return made.losses.mean(), made.errors.detach()

    def read(self, batch: BridgeBatch) -> Context:
        """What the bridge makes of captions; of those without text what was recorded of none."""
        assert batch.rows is not None  # every batch has them
        written = self.written(batch)
        nothing = ~(batch.rows.kinds == TEXT).any(1)
        if not bool(nothing.any()):
            return written
        empty = self.empty(len(batch), written.rows.device)
        rows = torch.zeros_like(written.rows)
        rows[:, : empty.rows.shape[1]] = empty.rows
        pooled = written.pooled
        if pooled is not None and empty.pooled is not None:
            pooled = torch.where(nothing[:, None], empty.pooled, pooled)
        rows = torch.where(nothing[:, None, None], rows, written.rows)
        return Context(rows, written.seen, pooled)
