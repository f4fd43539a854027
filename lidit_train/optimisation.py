"""The optimisers, the learning rate and the average of the weights."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .muon import Muon
from .parallel import is_sharded, local
from .recipe import Optimiser, Recipe

INNER = ("blocks.", "adapter.layers.")  # within names: whose matrices Muon takes
STATE = {torch.optim.AdamW: ("exp_avg", "exp_avg_sq"), Muon: ("velocity",)}


def optimisers_of(learner: nn.Module, recipe: Optimiser) -> list[torch.optim.Optimizer]:
    """AdamW, where only matrices decay; Muon for the blocks' matrices where asked for.

    The blocks are the transformer's and the linguistic refiners', and an adapter's added
    projections; the collaborative refiner's matrices stay with AdamW. What is frozen is left out.
    """
    trained = [(n, p) for n, p in learner.named_parameters() if p.requires_grad]
    inner = []
    if recipe.name == "muon":
        inner = [p for name, p in trained if p.ndim > 1 and any(part in name for part in INNER)]
    chosen = {id(p) for p in inner}
    rest = [p for _, p in trained if id(p) not in chosen]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    found: list[torch.optim.Optimizer] = []
    if groups:
        fused = not is_sharded(learner)  # divided tensors have no fused step on every device
        betas = (recipe.betas[0], recipe.betas[1])
        found.append(torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=betas, fused=fused))
    if inner:
        found.append(Muon(inner, lr=recipe.learning_rate, weight_decay=recipe.weight_decay))
    for optimiser in found:
        _begin(optimiser)
    return found


def _begin(optimiser: torch.optim.Optimizer) -> None:
    """Give every weight its state before its first gradient, which may come late."""
    for group in optimiser.param_groups:
        for p in group["params"]:
            zeros = {name: torch.zeros_like(p) for name in STATE[type(optimiser)]}
            optimiser.state[p].update(zeros)
            if isinstance(optimiser, torch.optim.AdamW):
                device = p.device if group["fused"] else "cpu"
                optimiser.state[p]["step"] = torch.zeros((), device=device)


def rate_factor(step: int, warmup: int, total: int, decay: float) -> float:
    """Linear warm-up, a plateau, and a linear fall to zero over the last share ``decay``.

    A plateau lets a run be lengthened without having spent its schedule (WSD).
    """
    return min((step + 1) / max(warmup, 1), decay_factor(step, total, decay))


def decay_factor(step: int, total: int, decay: float) -> float:
    """What the decay leaves of the rate at a step: 1 until it begins, then falling to 0."""
    return max(min(1.0, (total - step) / max(decay * total, 1)), 0.0)


def decay_start(total: int, decay: float) -> int:
    """The first step whose rate the decay lowers; ``total`` where it lowers none."""
    return bisect_left(range(total), True, key=lambda step: decay_factor(step, total, decay) < 1)


def learning_rate(step: int, recipe: Recipe) -> float:
    """The recipe's rate at a step, which its stage may scale."""
    o, (_, stage) = recipe.optimiser, recipe.stage_at(step)
    return o.learning_rate * stage.rate * rate_factor(step, o.warmup, recipe.steps, o.decay)


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
        torch._foreach_lerp_(
            [local(v) for v in self.weights.values()],
            [local(weights[k]).detach().float() for k in self.weights],
            1 - decay,
        )

    @contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """The model computes with its averaged weights inside the block."""
        weights = _trained(model)
        self._exchange(weights)
        try:
            yield
        finally:
            self._exchange(weights)

    @torch.no_grad()
    def _exchange(self, weights: Mapping[str, Tensor]) -> None:
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
