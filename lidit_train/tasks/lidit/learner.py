"""What a training step differentiates: the model, and the map that only its lessons need."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lidit_core.diffusion.objectives import add_noise, model_timestep, target
from lidit_core.diffusion.sampling import sample
from lidit_core.errors import LiDiTError
from lidit_core.model.dit import LiDiT, run_block

from ...recipe import Content, Contrast
from ..task import Batch, Shown


class Learner(nn.Module):
    """The loss of a batch; one module, so that several processes can share its gradients.

    Args:
        checkpointing: the blocks' activations are computed again in the backward pass.
        contrast: its batches are `Batch.contrasted`.
    Raises:
        LiDiTError: content of a block that is not there, or contrast without flow matching.
    """

    def __init__(
        self,
        model: LiDiT,
        content: Content | None = None,
        checkpointing: bool = False,
        contrast: Contrast | None = None,
    ) -> None:
        super().__init__()
        self.model, self.content, self.checkpointing = model, content, checkpointing
        self.contrast = contrast
        if contrast is not None and model.config.prediction != "flow":
            raise LiDiTError(
                "the recipe's contrast is of flow matching, and the model predicts "
                f"{model.config.prediction}; leave contrast out"
            )
        if content is not None and not 0 <= content.block < len(model.blocks):
            raise LiDiTError(
                f"the recipe's content is read after block {content.block}; expected one of "
                f"0 to {len(model.blocks) - 1}"
            )
        self.names = nn.Linear(model.config.width, content.classes) if content else None

    def compiled(self) -> list[nn.Module]:
        """The parts that torch.compile is for."""
        return list(self.model.blocks)

    def noted(self) -> dict[str, float]:
        """Numbers of its own for the log; none."""
        return {}

    def draw(
        self,
        noise: Tensor,
        positive: Shown,
        negative: Shown,
        steps: int | None = None,
        guidance: float | None = None,
    ) -> Tensor:
        """Normalised latents from noise (B, C, h, w); None = the model's own."""
        return sample(self.model, noise, positive.text, negative.text, steps, guidance)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss, and each sample's mean squared error on the objective's target, (B,)."""
        prediction, seen = self.model.config.prediction, {}

        def watched(index: int, block: nn.Module, x: Tensor, *rest) -> Tensor:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(run_block, index, block, x, *rest, use_reentrant=False)
            else:
                x = run_block(index, block, x, *rest)
            if self.content is not None and index == self.content.block:
                seen[index] = x  # (B, N, D)
            return x

        z = add_noise(prediction, batch.x, batch.noise, batch.time)
        time = model_timestep(prediction, batch.time)
        output = self.model(z, time, batch.text, run_block=watched).float()
        wanted = target(prediction, batch.x, batch.noise, batch.time)
        errors = F.mse_loss(output, wanted, reduction="none").mean((1, 2, 3))  # (B,)
        loss = errors.mean()
        if self.names is not None:
            logits = self.names(seen[self.content.block])  # (B, N, classes)
            named = F.cross_entropy(logits.flatten(0, 1), batch.content.flatten())
            loss = loss + self.content.weight * named
        if self.contrast is not None:
            loss = loss - self.contrast.weight * batch.contrasted.errors(output).mean()
        return loss, errors.detach()
