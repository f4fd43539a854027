"""The loss of a LI-DiT: denoising, and beside it content and contrast where a recipe has them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lidit_core.diffusion.sampling import sample
from lidit_core.model.dit import LiDiT

from ...batch import Batch, DrawnPrompts
from ...learner import Learner
from ...recipe import SQUARED, Content, Contrast, Loss, Routing
from ..denoising import denoise
from .alignment import AlignmentHead
from .lora import LoraAdapter
from .places import PositionHead
from .routing import Routed
from .running import BlockRunner


class LiDiTLearner(Learner):
    """Trains a LI-DiT; maps that name content or are aligned are no part of the model.

    Batches of held-out pictures bring no content, contrast or features, and are not measured by
    them, nor by the places of their tokens.

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
        routing: Routing | None = None,
        aligned: AlignmentHead | None = None,
        placed: PositionHead | None = None,
    ) -> None:
        super().__init__()
        self.model, self.content, self.checkpointing = model, content, checkpointing
        self.contrast, self.loss, self.routing = contrast, loss, routing
        self.names = nn.Linear(model.config.width, content.classes) if content else None
        self.aligned, self.placed = aligned, placed
        lessons = (content, *(taught.recipe for taught in (aligned, placed) if taught))
        self.watched = {lesson.block for lesson in lessons if lesson}  # blocks that are read

    def blocks(self) -> list[nn.Module]:
        return list(self.model.blocks)

    def draw(
        self,
        noise: Tensor,
        positive: DrawnPrompts,
        negative: DrawnPrompts,
        steps: int | None = None,
        guidance: float | None = None,
        mode: str = "",
    ) -> Tensor:
        return sample(self.model, noise, positive.states, negative.states, steps, guidance)

    def _routed(self, batch: Batch) -> Routed | None:
        """The routing of tokens around blocks, in training alone; None where there is none."""
        if self.routing is None or not torch.is_grad_enabled():
            return None
        assert batch.kept is not None  # a recipe that routes has it drawn
        return Routed(self.routing.blocks(len(self.model.blocks)), batch.kept)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        run = BlockRunner(self.watched, self.checkpointing, self._routed(batch))

        def predict(z: Tensor, t: Tensor) -> Tensor:
            return self.model(z, t, batch.states, run_block=run)

        made = denoise(self.model.config.prediction, batch, predict, self.loss)
        loss = made.losses.mean()
        if self.names is not None and self.content is not None and batch.content is not None:
            logits = self.names(run.seen[self.content.block])  # (B, N, classes)
            loss = loss + self.content.weight * self._named(batch, logits)
        if self.aligned is not None and batch.features is not None:  # until it ends
            recipe = self.aligned.recipe
            apart = self.aligned(run.seen[recipe.block], batch.features)
            loss = loss + recipe.weight * batch.mean_of_samples(apart)
        if self.placed is not None and torch.is_grad_enabled():
            rows = -(-batch.x.shape[-2] // self.model.config.patch)
            apart = self.placed(run.seen[self.placed.recipe.block], rows)
            loss = loss + self.placed.recipe.weight * apart.mean()
        if self.contrast is not None and batch.contrasted is not None:
            others = batch.contrasted.errors(made.output, batch.mean)
            if made.weights is not None:
                others = others * made.weights
            loss = loss - self.contrast.weight * others.mean()
        return loss, made.errors.detach()

    def _named(self, batch: Batch, logits: Tensor) -> Tensor:
        """The cross-entropy () of what each patch shows; logits (B, N, classes)."""
        assert batch.content is not None  # as above
        content = batch.content
        if batch.counted is None:
            return F.cross_entropy(logits.flatten(0, 1), content.flatten())
        each = F.cross_entropy(logits.transpose(1, 2), content.flatten(1), reduction="none")
        return batch.mean_of_samples(each)
