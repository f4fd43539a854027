"""The recipe's optimisers, each with the weights that it steps."""

from __future__ import annotations

import torch
from torch import nn

from ...recipe import Optimiser
from ..muon import Muon
from ..parallel import is_sharded
from .optional import PACKAGES, optional_optimiser

INNER = ("blocks.", "adapter.layers.")  # within names: whose matrices Muon takes
STATE = {torch.optim.AdamW: ("exp_avg", "exp_avg_sq"), Muon: ("velocity",)}


def optimisers_of(learner: nn.Module, recipe: Optimiser) -> list[torch.optim.Optimizer]:
    """AdamW or what the recipe names in its place; Muon for the blocks' matrices if asked for.

    Only matrices decay, and of these no embedding, which holds a text side's registers or the mix
    of its layers. The blocks are the transformer's and the linguistic refiners', and an adapter's
    added projections; the collaborative refiner's matrices stay with AdamW. What is frozen is left
    out.
    """
    trained = [(n, p) for n, p in learner.named_parameters() if p.requires_grad]
    inner = []
    if recipe.name == "muon":
        inner = [p for name, p in trained if p.ndim > 1 and any(part in name for part in INNER)]
    chosen = {id(p) for p in inner}
    tables = {id(m.weight) for m in learner.modules() if isinstance(m, nn.Embedding)}

    def decays(p: nn.Parameter) -> bool:
        return p.ndim > 1 and id(p) not in tables

    rest = [p for _, p in trained if id(p) not in chosen]
    groups = [
        {"params": [p for p in rest if decays(p)], "weight_decay": recipe.weight_decay},
        {"params": [p for p in rest if not decays(p)], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    found: list[torch.optim.Optimizer] = []
    betas = (recipe.betas[0], recipe.betas[1])
    if groups and recipe.name in PACKAGES:
        return [optional_optimiser(recipe.name, groups, recipe.learning_rate, betas)]
    if groups:
        fused = not is_sharded(learner)  # divided tensors have no fused step on every device
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
