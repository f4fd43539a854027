"""Counts what a U-Net with an adapter costs, by its learner on torch's meta device."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lidit_core.llmdiff.adapter import LLMDiffAdapter
from lidit_core.llmdiff.config import AdapterConfig
from lidit_core.text.states import PROMPT, LLMStates
from lidit_core.unet.families import UNetShape, cross_attention_layers

from ...loop.computing.eight_bits import bytes_in_eight_bits
from ...plan.counting import META, Cost, count
from .base_text import BaseText
from .learner import AdapterLearner
from .unet import build_unet

CLIP_TOKENS = 77  # of every text


@dataclass(frozen=True)
class UNetCost:
    """What one picture takes in training."""

    parameters: int  # of the U-Net
    eight: int  # bytes of it with its matrices in 8 bits
    cost: Cost  # of the U-Net with the adapter's paths


class _OwnText(BaseText):
    """The base's own text encoders give these shapes; what they compute is not counted."""

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.config = config

    def read(self, texts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        pooled = self.config.pooled_width
        context = torch.zeros(len(texts), CLIP_TOKENS, self.config.context_width)
        return context, torch.zeros(len(texts), pooled) if pooled else None


@functools.lru_cache(maxsize=64)
def unet_cost(
    shape: UNetShape, config: AdapterConfig, side: int, tokens: int, mixed: bool = False
) -> UNetCost:
    """Count a frozen U-Net in which an adapter learns, in mode ``replace`` where it has that.

    Args:
        side: of the latents.
        tokens: of the text that the adapter reads.
        mixed: whether it computes in bfloat16 under autocast.
    """
    unet = build_unet(shape, META)
    names = [layer.diffusers for layer in cross_attention_layers(shape)]
    adapter, own = LLMDiffAdapter(config, device=META), _OwnText(config)
    learner = AdapterLearner(unet, adapter, names, "eps", own, bool(config.pooled_width))
    z = torch.empty(1, shape.in_channels, side, side, device=META)
    t = torch.empty(1, device=META)
    hidden = torch.empty(1, tokens, config.states_width, device=META)
    states = LLMStates(hidden, torch.full((1, tokens), PROMPT, dtype=torch.int32))
    mode = "replace" if "replace" in config.modes else "add"
    cost = count(
        lambda _: learner.predict(z, t, states, [""], mode=mode), learner.parameters(), mixed
    )
    return UNetCost(
        sum(p.numel() for p in unet.parameters()), bytes_in_eight_bits(unet, mixed), cost
    )
