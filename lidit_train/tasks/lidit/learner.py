"""The loss of a LI-DiT: denoising, and beside it content and contrast where a recipe has them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lidit_core.diffusion.sampling import sample
from lidit_core.model.dit import LiDiT, LiDiTBlock, run_block

from ...batch import Batch, Shown
from ...learner import Learner
from ...recipe import SQUARED, Content, Contrast, Loss
from ..denoising import denoise
from .lora import LoraAdapter


class LiDiTLearner(Learner):
    """Trains a LI-DiT; the map that names content is no part of the model.

    Batches of held-out pictures bring neither content nor contrast, and are not measured by them.

    Args:
        checkpointing: the blocks' activations are computed again in the backward pass.
        contrast: its batches are `Batch.contrasted`.
    """

    lora: LoraAdapter  # where the recipe trains one

    def __init__(
        self,
        model: LiDiT,
        content: Content | None = None,
        checkpointing: bool = False,
        contrast: Contrast | None = None,
        loss: Loss = SQUARED,
    ) -> None:
        super().__init__()
        self.model, self.content, self.checkpointing = model, content, checkpointing
        self.contrast, self.loss = contrast, loss
        self.names = nn.Linear(model.config.width, content.classes) if content else None

    def blocks(self) -> list[nn.Module]:
        return list(self.model.blocks)

    def draw(
        self,
        noise: Tensor,
        positive: Shown,
        negative: Shown,
        steps: int | None = None,
        guidance: float | None = None,
        mode: str = "",
    ) -> Tensor:
        return sample(self.model, noise, positive.states, negative.states, steps, guidance)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        seen: dict[int, Tensor] = {}

        def watched(index: int, block: LiDiTBlock, x: Tensor, *rest) -> Tensor:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(run_block, index, block, x, *rest, use_reentrant=False)
            else:
                x = run_block(index, block, x, *rest)
            if self.content is not None and index == self.content.block:
                seen[index] = x  # (B, N, D)
            return x

        def predict(z: Tensor, t: Tensor) -> Tensor:
            return self.model(z, t, batch.states, run_block=watched)

        made = denoise(self.model.config.prediction, batch, predict, self.loss)
        loss = made.losses.mean()
        if self.names is not None and self.content is not None and batch.content is not None:
            logits = self.names(seen[self.content.block])  # (B, N, classes)
            loss = loss + self.content.weight * self._named(batch, logits)
        if self.contrast is not None and batch.contrasted is not None:
            others = batch.contrasted.errors(made.output, batch.mean)
            if made.weights is not None:
                others = others * made.weights
            loss = loss - self.contrast.weight * others.mean()
        return loss, made.errors.detach()

    def _named(self, batch: Batch, logits: Tensor) -> Tensor:
        """The cross-entropy () of what each patch shows; logits (B, N, classes)."""
        assert batch.content is not None  # as above
        shown = batch.content
        if batch.counted is None:
            return F.cross_entropy(logits.flatten(0, 1), shown.flatten())
        each = F.cross_entropy(logits.transpose(1, 2), shown.flatten(1), reduction="none")
        return batch.mean_of_samples(each)
