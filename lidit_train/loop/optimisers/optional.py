"""Optimisers from packages of their own: AdamW with 8-bit state, Prodigy, schedule-free AdamW.

Dettmers et al. 2021 (arXiv 2110.02861), Mishchenko & Defazio 2023 (arXiv 2306.06101) and Defazio
et al. 2024 (arXiv 2405.15682), each by its authors' package. All are AdamW otherwise.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import nn

from lidit_core.errors import LiDiTError

PACKAGES = {"adamw8bit": "bitsandbytes", "prodigy": "prodigyopt", "schedulefree": "schedulefree"}
Group = dict  # of parameters, as torch.optim takes it


def check_optimiser(name: str) -> None:
    """Refuse an optimiser whose package is not there."""
    package = PACKAGES.get(name)
    if package and find_spec(package) is None:
        raise LiDiTError(
            f"the recipe's optimiser {name} needs {package}, which this Python lacks; run: "
            f"{sys.executable} -m pip install {package}"
        )


def optional_optimiser(
    name: str, groups: list[Group], rate: float, betas: tuple[float, float]
) -> torch.optim.Optimizer:
    """One of `PACKAGES`, with the state that it has before its first step.

    Raises:
        LiDiTError: its package is not there.
    """
    check_optimiser(name)
    return _MAKERS[name](import_module(PACKAGES[name]), groups, rate, betas)


def _adamw8bit(package, groups: list[Group], rate: float, betas) -> torch.optim.Optimizer:
    made = package.optim.AdamW8bit(groups, lr=rate, betas=betas)
    for number, group in enumerate(made.param_groups):
        for place, p in enumerate(group["params"]):
            made.init_state(group, p, number, place)
    return made


def _prodigy(package, groups: list[Group], rate: float, betas) -> torch.optim.Optimizer:
    made = package.Prodigy(groups, lr=rate, betas=betas, safeguard_warmup=True)
    for p in _parameters(made):
        made.state[p] = {
            "step": 0,
            "s": torch.zeros_like(p).flatten(),
            "p0": p.detach().flatten().clone(),
            **({"exp_avg": torch.zeros_like(p)} if betas[0] else {}),
            "exp_avg_sq": torch.zeros_like(p),
        }
    return made


def _schedulefree(package, groups: list[Group], rate: float, betas) -> torch.optim.Optimizer:
    made = package.AdamWScheduleFree(groups, lr=rate, betas=betas)
    for p in _parameters(made):
        made.state[p] = {"z": p.detach().clone(), "exp_avg_sq": torch.zeros_like(p)}
    for group in made.param_groups:  # the weights before the first step are where gradients are
        group["train_mode"] = True  # taken, so `train`, which would move them there, is not called
    return made


def _parameters(optimiser: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimiser.param_groups for p in group["params"]]


_MAKERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw8bit": _adamw8bit,
    "prodigy": _prodigy,
    "schedulefree": _schedulefree,
}
