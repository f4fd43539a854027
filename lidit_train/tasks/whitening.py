"""A start for the maps that read an LLM: each of their outputs varies as much as any other.

An LLM's states lie in a narrow cone: what they share is far larger than what tells one word from
another, so a map drawn at random passes on mostly what they share, and learning to undo that
takes long. Only the start differs; the architecture is the same.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lidit_core.model.dit import LiDiT
from lidit_core.model.refiners import LinguisticTokenRefiner, masked_mean
from lidit_core.text.states import PADDING, LLMStates

FLOOR = 1e-6  # of the largest variance; what lies below is rounding and is left out
SAMPLE = 1024  # captions that the statistics are taken from


@torch.no_grad()
def whiten(layer: nn.Linear, x: Tensor) -> None:
    """Set a layer so that its outputs for x (N, C) have mean 0 and about variance 1, unrelated."""
    mean = x.mean(0)
    variances, axes = torch.linalg.eigh((x - mean).T @ (x - mean) / len(x))
    variances, axes = variances.flip(0), axes.flip(1)  # largest first
    n = min(layer.out_features, len(variances))
    scale = variances[:n].rsqrt().where(variances[:n] > FLOOR * variances[0], 0.0)
    weight = torch.zeros_like(layer.weight)
    weight[:n] = (axes[:, :n] * scale).T
    weight = _turn(layer.out_features, weight) @ weight
    layer.weight.copy_(weight)
    layer.bias.copy_(-weight @ mean)


def _turn(n: int, like: Tensor) -> Tensor:
    """A random rotation, so that no output is an axis of the states."""
    generator = torch.Generator().manual_seed(n)
    return torch.linalg.qr(torch.randn(n, n, generator=generator))[0].to(like)


@torch.no_grad()
def whiten_entry(refiner: LinguisticTokenRefiner, states: LLMStates) -> None:
    """The refiner's two maps from the LLM's states, from those of many captions."""
    rows = torch.randperm(len(states), generator=torch.Generator().manual_seed(0))[:SAMPLE]
    states = states[rows].to(dtype=torch.float32)
    seen = states.roles != PADDING
    hidden = refiner.entry_norm(states.hidden)
    whiten(refiner.entry, hidden[seen])
    whiten(refiner.c_embedder.in_layer, masked_mean(hidden, seen))


def whiten_entries(model: LiDiT, branches: dict[int, LLMStates]) -> None:
    for i, states in branches.items():
        whiten_entry(model.text_side.linguistic[i], states)
