"""The averaged weights (EMA) of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .parallel import let_go_of_gathered, local


class EMA:
    """Exponential moving average of the weights that are trained, in float32.

    The decay grows as (1 + n) / (10 + n) up to its limit, so that early averages are useful.
    Weights that are divided over processes are averaged where they lie.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.weights = {k: p.detach().clone().float() for k, p in _trained(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        weights = _trained(model)
        torch.ops.aten._foreach_lerp_.Scalar(
            [local(v) for v in self.weights.values()],
            [local(weights[k]).detach().float() for k in self.weights],
            1 - decay,
        )

    @contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """The model computes with its averaged weights inside the block."""
        self._exchange(model)
        try:
            yield
        finally:
            self._exchange(model)

    @torch.no_grad()
    def _exchange(self, model: nn.Module) -> None:
        let_go_of_gathered(model)
        weights = _trained(model)
        for key, average in self.weights.items():
            mine, theirs = local(average), local(weights[key])
            kept = theirs.clone()
            theirs.copy_(mine)
            mine.copy_(kept)

    def state_dict(self) -> dict:
        return {"steps": self.steps, "weights": self.weights}

    def load_state_dict(self, state: dict) -> None:
        self.steps, self.weights = state["steps"], state["weights"]

    def over(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The model's weights with the averaged ones in their places."""
        return {key: self.weights.get(key, value) for key, value in weights.items()}


def _trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
