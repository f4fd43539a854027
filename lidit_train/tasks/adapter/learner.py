"""The loss of an adapter in a frozen U-Net.

Every batch is shared out among the adapter's modes, row by row, so that one file serves all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lidit_core.diffusion.objectives import guided
from lidit_core.diffusion.sampling import euler_steps
from lidit_core.diffusion.times import sampling_times
from lidit_core.errors import LiDiTError
from lidit_core.llmdiff.adapter import AdapterText, LLMDiffAdapter
from lidit_core.model.attention import scaled_dot_product
from lidit_core.text.states import LLMStates, stack_states

from ...batch import Batch, DrawnPrompts
from ...learner import Learner
from ...recipe import SQUARED, Loss
from ..denoising import denoise
from .base_text import BaseText
from .unet import DiffusersAttention, blocks_of, checkpoint_blocks, cross_attention, predicted

if TYPE_CHECKING:
    from .unet import UNet2DConditionModel

LLM = 0  # the only branch
STEPS, GUIDANCE = 25, 5.0  # of validations, unless the recipe says otherwise


@dataclass(frozen=True, eq=False)
class LayerInputs:
    """What all cross-attention layers read in one forward pass."""

    text: AdapterText
    replaced: Tensor  # (B,) bool: rows in mode replace


class AddedPath:
    """One cross-attention layer of diffusers' U-Net with the adapter's path beside its own."""

    def __init__(self, learner: AdapterLearner, index: int) -> None:
        self.learner, self.index = learner, index

    def __call__(
        self,
        attn,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_,
    ) -> Tensor:
        inputs, layer = self.learner.inputs, self.learner.adapter.layers[self.index]
        if inputs is None:
            return attn.to_out[0](_own(attn, hidden_states, encoder_hidden_states, attention_mask))
        scale = torch.where(inputs.replaced, layer.base_gate(), 1.0)[:, None, None]
        own = _own(attn, hidden_states, encoder_hidden_states, attention_mask, scale)
        added = layer(hidden_states, inputs.text, self.index, scaled_dot_product)
        return attn.to_out[0](own + added)


def _own(
    attn,
    x: Tensor,
    context: Tensor | None,
    mask: Tensor | None,
    scale: Tensor | float = 1.0,
) -> Tensor:
    """The layer's own path (B, N, D) before its output map, its values scaled."""
    k, v = attn.to_k(context), attn.to_v(context) * scale
    mask = None if mask is None else mask[:, None]
    return scaled_dot_product(attn.to_q(x), k, v, attn.heads, mask)


class AdapterLearner(Learner):
    """Trains an adapter in the cross-attention layers of a U-Net.

    Args:
        unet: diffusers' UNet2DConditionModel, frozen.
        layers: its cross-attention layers by diffusers' names, as the adapter orders them.
        own: the base's text encoders; None where mode add is not trained.
        pooled: whether the U-Net wants SDXL's pooled text and sizes.
        noisy: whether the Langevin noise is added in training.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        adapter: LLMDiffAdapter,
        layers: list[str],
        prediction: str,
        own: BaseText | None,
        pooled: bool = False,
        checkpointing: bool = False,
        loss: Loss = SQUARED,
        noisy: bool = True,
    ) -> None:
        super().__init__()
        self.adapter, self.prediction, self.pooled = adapter, prediction, pooled
        self.loss, self.noisy = loss, noisy
        if adapter.langevin is not None and not noisy:
            adapter.langevin.h.requires_grad_(False)  # which nothing reads
        self.unet, self.own = unet.requires_grad_(False).eval(), own
        if own is not None:
            own.requires_grad_(False).eval()
        self.inputs: LayerInputs | None = None
        self.names = layers
        for index, attn in enumerate(self.adapted()):
            attn.set_processor(AddedPath(self, index))
        if checkpointing:
            checkpoint_blocks(unet)

    def adapted(self) -> list[DiffusersAttention]:
        """The U-Net's cross-attention layers, as the adapter orders them."""
        return [cross_attention(self.unet, name) for name in self.names]

    def noted(self) -> dict[str, float]:
        """The Langevin noise's deviation over all blocks, which the loss tends to drive to 0."""
        if self.adapter.langevin is None or not self.noisy:
            return {}
        return {"langevin noise": float(self.adapter.langevin.deviations.square().sum().sqrt())}

    def blocks(self) -> list[nn.Module]:
        return blocks_of(self.unet)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        seed = batch.seeds[0]  # a batch of one row is not always in the same mode
        noise = torch.Generator(batch.noise.device).manual_seed(seed) if self.noisy else None

        def predict(z: Tensor, t: Tensor) -> Tensor:
            return self.predict(z, t, batch.states[LLM], batch.captions, noise, first=seed)

        made = denoise(self.prediction, batch, predict, self.loss)
        return made.losses.mean(), made.errors.detach()

    def predict(
        self,
        z: Tensor,
        t: Tensor,
        states: LLMStates | None,
        texts: Sequence[str],
        generator: torch.Generator | None = None,
        mode: str = "",
        first: int = 0,
    ) -> Tensor:
        """The U-Net's output with the adapter.

        Args:
            generator: of the Langevin noise; None = without noise.
            mode: of every row, or "base" = without the adapter; "" = the adapter's in turn.
            first: the turn of the first row.
        """
        if mode == "base":
            return self._base(z, t, texts)
        assert states is not None  # which mode base alone does not read
        if mode:
            self.adapter.check_mode(mode)
        noisy = generator is not None
        text = self.adapter.read(states, t, generator=generator, noisy=noisy)
        modes = (mode,) if mode else self.adapter.config.modes
        turns = [modes[(first + row) % len(modes)] == "replace" for row in range(len(z))]
        replaced = torch.tensor(turns, device=z.device)
        context, seen, pooled = self._condition(text, texts, turns, replaced)
        self.inputs = LayerInputs(text, replaced)
        return self._run(z, t, context, seen, pooled)

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
        """Normalised latents from noise (B, C, h, w).

        Args:
            mode: "base" = without the adapter; "" = the first that is trained.
        """
        mode = mode or self.adapter.config.modes[0]
        steps = STEPS if steps is None else steps
        scale = GUIDANCE if guidance is None else guidance
        states = stack_states([positive.states[LLM], negative.states[LLM]])
        texts = [*positive.prompts, *negative.prompts]

        def predict(z: Tensor, t: Tensor) -> Tensor:
            both = self.predict(z.repeat(2, 1, 1, 1), t.repeat(2), states, texts, mode=mode)
            asked, unasked = both.chunk(2)
            return guided(asked, unasked, scale)

        times = sampling_times(self.prediction, steps, shift=1.0)
        return euler_steps(predict, noise, self.prediction, times)

    def _base(self, z: Tensor, t: Tensor, texts: Sequence[str]) -> Tensor:
        """The checkpoint as it was."""
        if self.own is None:
            raise LiDiTError(
                "the checkpoint alone reads its own text encoders, which were not loaded, for the "
                "adapter was trained in mode replace alone; choose mode replace"
            )
        self.inputs = None
        context, pooled = self.own.read(texts)
        return self._run(z, t, context, None, pooled)

    def _run(self, z: Tensor, t: Tensor, context: Tensor, seen: Tensor | None, pooled) -> Tensor:
        return predicted(self.unet, z, t, context, seen, pooled if self.pooled else None)

    def _condition(
        self, text: AdapterText, texts: Sequence[str], turns: Sequence[bool], replaced: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Context (B, K, width), which of it is seen (B, K; None = all), and the pooled text.

        Args:
            turns, replaced: by row, whether φ(c) is its context; what Python knows, and (B,).
        """
        mine = pooled = None
        if any(turns):
            mine = self.adapter.context(text)
            pooled = self.adapter.pooled(text) if self.pooled else None
        if mine is not None and all(turns):
            return mine, None if text.all_seen else _some(text.seen), pooled
        assert self.own is not None  # where a row is in mode add
        with torch.no_grad():
            own, own_pooled = self.own.read(texts)
        everywhere = torch.ones(own.shape[:2], dtype=torch.bool, device=own.device)
        if mine is None:
            return own, None, own_pooled
        length = max(own.shape[1], mine.shape[1])
        which = replaced[:, None]
        context = torch.where(which[..., None], _padded(mine, length), _padded(own, length))
        seen = torch.where(which, _padded(_some(text.seen), length), _padded(everywhere, length))
        if self.pooled:
            assert pooled is not None and own_pooled is not None  # both are SDXL's
            pooled = torch.where(which, pooled, own_pooled)
        return context, seen, pooled


def _some(seen: Tensor) -> Tensor:
    """A sample without a token sees one, of zeros, for attention needs a key."""
    return seen | (~seen.any(dim=1, keepdim=True) & (torch.arange(seen.shape[1]) == 0).to(seen))


def _padded(x: Tensor, length: int) -> Tensor:
    """Fill (B, K, …) up to a length with zeros."""
    return torch.cat([x, x.new_zeros(len(x), length - x.shape[1], *x.shape[2:])], dim=1)
