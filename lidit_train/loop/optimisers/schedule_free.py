"""The average that schedule-free optimisation makes itself (Defazio et al. 2024, arXiv 2405.15682).

Gradients are taken at y, a point between the average x, which is what has been learnt, and the
sequence z that steps are made of: y = (1 - β) z + β x.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ...recipe import Optimiser
from ..ema import EMA


class ScheduleFreeAverage(EMA):
    """The optimiser's averaged weights x in the place of an EMA; the weights y are not moved.

    The package's own `eval` and `train` move the weights there and back, which rounds: a run that
    is saved would go on in other bits than one that is not.
    """

    def __init__(self, model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        super().__init__(model, 0.0)
        self.optimiser = optimiser

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.steps += 1
        names = {p: name for name, p in model.named_parameters()}
        for group in self.optimiser.param_groups:
            beyond = 1 - 1 / group["betas"][0]  # x = y + (1 - 1 / β) (z - y)
            for p in group["params"]:
                z = self.optimiser.state[p]["z"]
                self.weights[names[p]].copy_(torch.lerp(p.detach(), z, beyond))


def average_of(
    learner: nn.Module, recipe: Optimiser, optimisers: Sequence[torch.optim.Optimizer]
) -> EMA:
    """The averaged weights of a run: its own, or those that its optimiser makes."""
    if recipe.name == "schedulefree" and optimisers:
        return ScheduleFreeAverage(learner, optimisers[0])
    return EMA(learner, recipe.ema)
