"""A start for the maps that read an LLM: each of their outputs varies as much as any other.

An LLM's states lie in a narrow cone: what they share is far larger than what tells one word from
another, so a map drawn at random passes on mostly what they share, and learning to undo that
takes long. Only the start differs; the architecture is the same.

With few captions, or equal ones, the states vary along few directions or along none. What varies
no more than rounding makes it is left out, for whitening would magnify it beyond all numbers, and
a map whose states do not vary at all keeps the random start that it has.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lidit_core.errors import check
from lidit_core.model.branch import masked_mean
from lidit_core.model.dit import LiDiT
from lidit_core.model.refiners import LinguisticTokenRefiner
from lidit_core.text.states import PADDING, LLMStates

FLOOR = 1e-6  # of the largest variance; what lies below is rounding and is left out
ROUNDING = 1e-11  # of the mean square: variance that rounding gives to equal float32 states
SAMPLE = 1024  # captions that the statistics are taken from


@torch.no_grad()
def whiten(layer: nn.Linear, x: Tensor) -> None:
    """Set a layer so that its outputs for x (N, C) have mean 0 and about variance 1, unrelated.

    Directions along which x does not vary are left out; without any the layer stays as it is.
    """
    check(
        bool(x.isfinite().all()),
        "an LLM's states of the captions hold numbers that are not finite, from which no map can "
        "start; fetch the LLM again, delete the run's cache, or set model.whiten=false",
    )
    if not len(x):
        return
    mean = x.mean(0)
    variances, axes = torch.linalg.eigh((x - mean).T @ (x - mean) / len(x))
    variances, axes = variances.flip(0), axes.flip(1)  # largest first
    n = min(layer.out_features, len(variances))
    varies = variances[:n] > max(FLOOR * variances[0], ROUNDING * x.square().mean())
    if not varies.any():
        return
    scale = variances[:n].where(varies, 1.0).rsqrt().where(varies, 0.0)
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
    hidden = refiner.entered(states, torch.float32)
    whiten(refiner.entry, hidden[seen])
    whiten(refiner.c_embedder.in_layer, masked_mean(hidden, seen))


def whiten_entries(model: LiDiT, branches: dict[int, LLMStates]) -> None:
    for i, states in branches.items():
        whiten_entry(model.text_side.linguistic[i], states)
