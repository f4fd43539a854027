"""The loss of a bridge: the teacher's rows in its standardised space.

Shapes: B prompts, R rows, C the teacher's width, P of its pooled vector.
"""

from __future__ import annotations

from typing import NoReturn, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lidit_core.bridge.model import Bridge
from lidit_core.bridge.rows import PADDING_ROW
from lidit_core.errors import LiDiTError

from ...batch import Batch
from ...learner import Learner
from .batches import BridgeBatch
from .start import attended

COSINE = 0.5  # weight of 1 - cosine beside the squared error


class BridgeLearner(Learner):
    """A bridge whose residual is trained, on a base that stays."""

    def __init__(self, bridge: Bridge) -> None:
        super().__init__()
        self.bridge = bridge

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Squared error and half of 1 - cosine, of rows by their weight and the pooled vector."""
        batch = cast(BridgeBatch, batch)
        assert batch.rows is not None  # every batch has them
        base, out = self.bridge.base, self.bridge(batch.students, batch.rows, own=batch.own)
        weights = self.weights(batch)
        squared, apart = _errors(out.sequence, base.standardised(batch.x, batch.rows))
        errors = (squared * weights).sum(1)
        losses = errors + COSINE * (apart * weights).sum(1)
        if out.pooled is not None and batch.pooled is not None:
            squared, apart = _errors(out.pooled, base.standardised_pooled(batch.pooled))
            losses = losses + squared + COSINE * apart
        return losses.mean(), errors.detach()

    def weights(self, batch: BridgeBatch) -> Tensor:
        """Weigh the rows of each prompt, (B, R) of sum 1.

        Rows that vary count alike, and all of a prompt's padding as one.
        """
        assert batch.rows is not None
        rows = batch.rows
        masked = self.bridge.config.teacher.masked
        read = attended(rows, masked) & ~self.bridge.base.is_fixed(rows)
        padding = read & (rows.kinds == PADDING_ROW)
        share = padding.sum(1, keepdim=True).clamp(min=1).reciprocal()
        weights = torch.where(padding, share, read.float())
        return weights / weights.sum(1, keepdim=True).clamp(min=1e-6)

    def blocks(self) -> list[nn.Module]:
        """The blocks of the refiners and of the resampler."""
        if self.bridge.config.residual != "attention":
            return []
        refined = [block for refiner in self.bridge.reader.linguistic for block in refiner.blocks]
        return [*refined, *self.bridge.resampler.blocks]

    def draw(self, noise, positive, negative, steps=None, guidance=None, mode="") -> NoReturn:
        raise LiDiTError("a bridge draws no picture; leave validation.prompts out of the recipe")


def _errors(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared error, and 1 - cosine, over the last dimension."""
    squared = (ours.float() - theirs).square().mean(-1)
    return squared, 1 - F.cosine_similarity(ours.float(), theirs, dim=-1)
