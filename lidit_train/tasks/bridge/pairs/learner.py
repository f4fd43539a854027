"""The loss of a bridge on captioned pictures: that of the U-Net under what it writes."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from lidit_core.bridge.model import Bridge
from lidit_core.bridge.rows import TEXT
from lidit_core.diffusion.objectives import guided
from lidit_core.diffusion.sampling import euler_steps
from lidit_core.diffusion.times import sampling_times
from lidit_core.io.conditioning import Entry

from ....batch import Batch, DrawnPrompts
from ....recipe import Loss
from ...adapter.learner import GUIDANCE, STEPS
from ...adapter.unet import BaseUNet
from ...denoising import denoise
from ..batches import BridgeBatch
from ..unet.learner import Context, UNetLearner
from .batches import WrittenTexts


class PairsLearner(UNetLearner):
    """A bridge that learns by how well a frozen U-Net denoises pictures under what it writes.

    Args:
        texts: the rows of prompts that are drawn.
    """

    def __init__(
        self,
        bridge: Bridge,
        empty: Entry,
        base: BaseUNet,
        loss: Loss,
        checkpointing: bool,
        texts: WrittenTexts,
    ) -> None:
        super().__init__(bridge, empty, base, loss, checkpointing)
        self.texts = texts

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

    @torch.no_grad()
    def draw(
        self,
        noise: Tensor,
        positive: DrawnPrompts,
        negative: DrawnPrompts,
        steps: int | None = None,
        guidance: float | None = None,
        mode: str = "",
    ) -> Tensor:
        """Normalised latents from noise (B, C, h, w)."""
        asked, other = (self._context(noise, prompts) for prompts in (positive, negative))
        scale = GUIDANCE if guidance is None else guidance

        def predict(z: Tensor, t: Tensor) -> Tensor:
            return guided(self.say(z, t, asked), self.say(z, t, other), scale)

        times = sampling_times(self.prediction, STEPS if steps is None else steps, shift=1.0)
        return euler_steps(predict, noise, self.prediction, times)

    def _context(self, noise: Tensor, drawn: DrawnPrompts) -> Context:
        """What the bridge makes of prompts that are drawn."""
        rows, own = self.texts(drawn.prompts, noise.device)
        time = noise.new_ones(len(noise))
        batch = BridgeBatch(noise, noise, time, drawn.states, spans=drawn.spans, rows=rows, own=own)
        return self.read(batch)
