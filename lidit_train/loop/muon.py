"""Muon: momentum whose direction is made orthogonal, for the matrices inside a transformer.

Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon), with the step scaled to the size
of AdamW's (Liu et al. 2025, arXiv 2502.16982), so that one learning rate serves both.
torch.optim.Muon computes in bfloat16, which a CPU without it does a hundred times slower.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch import _foreach_add_ as foreach_add_  # pyright: ignore[reportPrivateImportUsage]
from torch import _foreach_lerp as foreach_lerp  # pyright: ignore[reportPrivateImportUsage]
from torch import _foreach_lerp_ as foreach_lerp_  # pyright: ignore[reportPrivateImportUsage]
from torch import _foreach_mul_ as foreach_mul_  # pyright: ignore[reportPrivateImportUsage]

from .parallel import divided_like, whole

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
TOGETHER = 1 << 22  # numbers at most that are made orthogonal at once, or one matrix
LIKE_ADAMW = 0.2  # root mean square of a step, in learning rates


@torch.no_grad()
def orthogonalised(matrices: Tensor) -> Tensor:
    """About U Vᵀ of each of n matrices U S Vᵀ (n, rows, columns): singular values close to 1."""
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """For matrices and kernels (as matrices, one row for each output); the rest needs AdamW."""

    def __init__(self, parameters, lr: float, momentum=0.95, weight_decay=0.0) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for alike in _alike([p for p in group["params"] if p.grad is not None]):
                self._update(alike, group)

    def _update(self, alike: list[nn.Parameter], group: dict) -> None:
        gradients = [p.grad for p in alike if p.grad is not None]
        weights: list[Tensor] = [*alike]
        velocities = [self._velocity(p) for p in alike]
        foreach_lerp_(velocities, gradients, 1 - group["momentum"])
        directions = foreach_lerp(gradients, velocities, group["momentum"])  # Nesterov's
        updates = orthogonalised(torch.stack([whole(d).flatten(1) for d in directions]))
        length = group["lr"] * LIKE_ADAMW * max(updates.shape[1:]) ** 0.5
        # every process made the whole matrices, and keeps its part of them
        updates = [divided_like(update.view(p.shape), p) for p, update in zip(alike, updates)]
        foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        foreach_add_(weights, updates, alpha=-length)

    def _velocity(self, p: nn.Parameter) -> Tensor:
        state = self.state[p]
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(p)
        return state["velocity"]


def _alike(parameters: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Matrices of one shape together, which a GPU computes in a step; large ones one by one."""
    shapes: dict[torch.Size, list[nn.Parameter]] = {}
    for p in parameters:
        shapes.setdefault(p.flatten(1).shape, []).append(p)
    for shape, alike in shapes.items():
        most = max(1, TOGETHER // shape.numel())
        yield from (alike[first : first + most] for first in range(0, len(alike), most))
