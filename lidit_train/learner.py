"""What a training step differentiates: the model, and the map that only its lessons need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from lidit_core.dit import LiDiT, run_block
from lidit_core.errors import LiDiTError
from lidit_core.objectives import add_noise, model_timestep, target
from lidit_core.states import LLMStates

from .recipe import Content


@dataclass(frozen=True)
class Batch:
    x: Tensor  # (B, C, H, W) normalised latents
    noise: Tensor  # like x
    time: Tensor  # (B,) in (0, 1)
    text: Mapping[int, LLMStates]
    content: Tensor | None = None  # (B, h, w) int64: what each patch shows


class Learner(nn.Module):
    """The loss of a batch; one module, so that several processes can share its gradients."""

    def __init__(self, model: LiDiT, content: Content | None = None) -> None:
        super().__init__()
        self.model, self.content = model, content
        if content is not None and not 0 <= content.block < len(model.blocks):
            raise LiDiTError(
                f"the recipe's content is read after block {content.block}; expected one of "
                f"0 to {len(model.blocks) - 1}"
            )
        self.names = nn.Linear(model.config.width, content.classes) if content else None

    def forward(self, batch: Batch) -> Tensor:
        """Mean squared error on the objective's target, and the content's cross-entropy."""
        prediction, seen = self.model.config.prediction, {}

        def watched(index: int, block: nn.Module, x: Tensor, *rest) -> Tensor:
            seen[index] = run_block(index, block, x, *rest)  # (B, N, D)
            return seen[index]

        z = add_noise(prediction, batch.x, batch.noise, batch.time)
        time = model_timestep(prediction, batch.time)
        output = self.model(z, time, batch.text, run_block=watched)
        loss = F.mse_loss(output, target(prediction, batch.x, batch.noise, batch.time))
        if self.names is None:
            return loss
        logits = self.names(seen[self.content.block])  # (B, N, classes)
        named = F.cross_entropy(logits.flatten(0, 1), batch.content.flatten())
        return loss + self.content.weight * named
