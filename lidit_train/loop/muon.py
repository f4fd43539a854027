"""Muon: momentum whose direction is made orthogonal, for the matrices inside a transformer.

Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon), with the step scaled to the size
of AdamW's (Liu et al. 2025, arXiv 2502.16982), so that one learning rate serves both.
torch.optim.Muon computes in bfloat16, which a CPU without it does a hundred times slower.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .parallel import divided_like, whole

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
LIKE_ADAMW = 0.2  # root mean square of a step, in learning rates


@torch.no_grad()
def orthogonalised(matrix: Tensor) -> Tensor:
    """About U Vᵀ of a matrix U S Vᵀ: its singular values are brought close to 1."""
    a, b, c = NEWTON_SCHULZ
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class Muon(torch.optim.Optimizer):
    """For matrices and kernels (as matrices, one row for each output); the rest needs AdamW."""

    def __init__(self, parameters, lr: float, momentum=0.95, weight_decay=0.0) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, p.grad, group)

    def _update(self, p: nn.Parameter, grad: Tensor, group: dict) -> None:
        velocity = self.state[p].setdefault("velocity", torch.zeros_like(p))
        velocity.lerp_(grad, 1 - group["momentum"])
        direction = grad.lerp(velocity, group["momentum"])  # Nesterov's
        update = orthogonalised(whole(direction).flatten(1)).view(p.shape)
        rows, columns = update.flatten(1).shape
        p.mul_(1 - group["lr"] * group["weight_decay"])
        update = divided_like(update, p)  # every process orthogonalises the whole matrix
        p.add_(update, alpha=-group["lr"] * LIKE_ADAMW * max(rows, columns) ** 0.5)
