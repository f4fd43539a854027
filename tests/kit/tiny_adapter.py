"""Tiny adapters in tiny U-Nets, and what they read."""

from __future__ import annotations

import torch
from tiny_unet import TINY, random_unet
from torch import Tensor, nn

from lidit_core.demo.bag_of_words import BagOfWords
from lidit_core.llmdiff.adapter import LLMDiffAdapter
from lidit_core.llmdiff.config import AdaptedLayer, AdapterConfig
from lidit_core.text.spec import LLMSpec
from lidit_core.text.states import INSTRUCTION, PADDING, PROMPT, LLMStates
from lidit_core.unet.families import cross_attention_layers
from lidit_train.batch import Batch, seeds_of
from lidit_train.tasks.adapter.learner import AdapterLearner
from lidit_train.tasks.adapter.unet_names import SIZE_WIDTH

WIDTH, BLOCKS = 12, 2  # of the LLM


class Words(nn.Module):
    """A U-Net's own text encoder: words in any order, and their mean as the pooled text."""

    def __init__(self, width: int, pooled: int) -> None:
        super().__init__()
        self.words, self.pooled = BagOfWords(width), nn.Linear(width, pooled) if pooled else None

    def read(self, texts: list[str]) -> tuple[Tensor, Tensor | None]:
        tokens = self.words.read(texts)
        return tokens, self.pooled(tokens.mean(1)) if self.pooled else None


def adapter_config(kind: str = "sd15", **changes) -> AdapterConfig:
    """For a U-Net of `tiny_unet.TINY`."""
    shape = TINY[kind]
    layers = tuple(AdaptedLayer(x.name, x.width, x.heads) for x in cross_attention_layers(shape))
    known = {
        "family": shape.family,
        "layers": layers,
        "context_width": shape.context_width,
        "llm": LLMSpec("tiny", WIDTH, "differences"),
        "blocks": BLOCKS,
        "pooled_width": shape.adm and shape.adm - 6 * SIZE_WIDTH,
    }
    return AdapterConfig(**{**known, **changes})


def new_adapter(kind: str = "sd15", **changes) -> LLMDiffAdapter:
    """An adapter before training."""
    torch.manual_seed(2)
    return LLMDiffAdapter(adapter_config(kind, **changes)).initialise()


@torch.no_grad()
def trained_adapter(kind: str = "sd15", **changes) -> LLMDiffAdapter:
    """An adapter whose every weight is away from where it began."""
    adapter = new_adapter(kind, **changes)
    for weight in adapter.parameters():
        weight.add_(0.3 * torch.randn_like(weight))
    return adapter


def new_learner(adapter: LLMDiffAdapter, kind: str = "sd15", **options) -> AdapterLearner:
    shape = TINY[kind]
    torch.manual_seed(3)
    own = Words(shape.context_width, adapter.config.pooled_width)
    names = [layer.diffusers for layer in cross_attention_layers(shape)]
    unet, pooled = random_unet(shape), bool(shape.adm)
    return AdapterLearner(unet, adapter, names, "eps", own, pooled, **options)


def differences(*prompts: int, instruction: int = 0, seed: int = 4) -> LLMStates:
    """Random states of block "differences", of so many prompt tokens in each row."""
    length = instruction + max(prompts)
    make = torch.Generator().manual_seed(seed)
    hidden = torch.randn(len(prompts), length, (BLOCKS + 1) * WIDTH, generator=make)
    roles = torch.full((len(prompts), length), PADDING, dtype=torch.int32)
    for row, count in enumerate(prompts):
        roles[row, :instruction] = INSTRUCTION
        roles[row, instruction : instruction + count] = PROMPT
    return LLMStates(hidden, roles)


def latents(count: int, kind: str = "sd15", side: int = 16) -> tuple[Tensor, Tensor]:
    """Noisy latents (B, C, side, side) and their timesteps (B,)."""
    make = torch.Generator().manual_seed(5)
    z = torch.randn(count, TINY[kind].in_channels, side, side, generator=make)
    return z, torch.linspace(800, 30, count)


def noised_batch(seed: int, texts: list[str]) -> Batch:
    (x, _), make = latents(2, side=8), torch.Generator().manual_seed(seed)
    noise = torch.randn(x.shape, generator=make)
    states, seeds = {0: differences(3, 5)}, seeds_of(noise)
    return Batch(x, noise, torch.tensor([0.3, 0.9]), states, captions=texts, seeds=seeds)
