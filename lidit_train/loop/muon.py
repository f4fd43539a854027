"""Muon: momentum whose direction is made orthogonal, for the matrices inside a transformer.

Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon), with the step scaled to the size
of AdamW's (Liu et al. 2025, arXiv 2502.16982), so that one learning rate serves both.
torch.optim.Muon computes in bfloat16, which a CPU without it does a hundred times slower.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from .parallel import divided_like, made_in_shares, whole

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
TOGETHER = 1 << 22  # numbers at most that are made orthogonal at once, or one matrix
EACH = torch.ops.aten  # whose _foreach_ operations take a list of tensors in a few kernels
LIKE_ADAMW = 0.2  # root mean square of a step, in learning rates


@torch.no_grad()
def orthogonalised(matrices: Tensor) -> Tensor:
    """Approximate U Vᵀ of each matrix U S Vᵀ (n, rows, columns): singular values close to 1."""
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)  # autocast makes products of bf16


class Muon(torch.optim.Optimizer):
    """Steps matrices and kernels (as matrices, one row for each output); the rest needs AdamW."""

    def __init__(self, parameters, lr: float, momentum=0.95, weight_decay=0.0) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for alike in _alike([p for p in group["params"] if p.grad is not None]):
                self._update(alike, group)

    def _update(self, alike: list[nn.Parameter], group: dict) -> None:
        gradients = [p.grad for p in alike if p.grad is not None]
        velocities = [self._velocity(p) for p in alike]
        EACH._foreach_lerp_.Scalar(velocities, gradients, 1 - group["momentum"])
        # Nesterov's
        directions = EACH._foreach_lerp.Scalar(gradients, velocities, group["momentum"])
        matrices = torch.stack([whole(d).flatten(1) for d in directions])
        updates = made_in_shares(orthogonalised, matrices)
        length = group["lr"] * LIKE_ADAMW * max(updates.shape[1:]) ** 0.5
        # every process has the whole matrices, and keeps its part of them
        updates = [divided_like(update.view(p.shape), p) for p, update in zip(alike, updates)]
        EACH._foreach_mul_.Scalar(alike, 1 - group["lr"] * group["weight_decay"])
        EACH._foreach_add_.List(alike, updates, alpha=-length)

    def _velocity(self, p: nn.Parameter) -> Tensor:
        state = self.state[p]
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(p)
        return state["velocity"]


def stacks(shape: Sequence[int], matrices: int) -> list[int]:
    """How many of so many matrices of one shape are made orthogonal at once, each time."""
    most = max(1, TOGETHER // math.prod(shape))
    return [min(most, matrices - first) for first in range(0, matrices, most)]


def _alike(parameters: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Matrices of one shape together, which a GPU computes in a step; large ones one by one."""
    shapes: dict[torch.Size, list[nn.Parameter]] = {}
    for p in parameters:
        shapes.setdefault(p.flatten(1).shape, []).append(p)
    for shape, alike in shapes.items():
        left = iter(alike)
        yield from ([next(left) for _ in range(size)] for size in stacks(shape, len(alike)))
