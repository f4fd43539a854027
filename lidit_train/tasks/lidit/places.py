"""The loss of where image tokens are, and the map that it trains beside the model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...recipe import Place


class PositionHead(nn.Module):
    """Tells rows and columns from a block's image tokens.

    Args:
        width: of the model's tokens.
    """

    def __init__(self, recipe: Place, width: int) -> None:
        super().__init__()
        self.recipe = recipe
        self.map = nn.Linear(width, 2)

    def forward(self, tokens: Tensor, rows: int) -> Tensor:
        """The squared error of each sample, (B,), a mean over its tokens; 2/3 tells nothing.

        Args:
            tokens: (B, N, width) of a block, in N / rows columns.
        """
        wanted = places(rows, tokens.shape[1] // rows, tokens.device)
        told = F.layer_norm(tokens.float(), tokens.shape[-1:])
        return (self.map(told) - wanted).square().sum(-1).mean(1)


def places(rows: int, columns: int, device: torch.device) -> Tensor:
    """Row and column of each token, (rows · columns, 2), each from -1 to 1."""
    sides = [torch.linspace(-1, 1, side, device=device) for side in (rows, columns)]
    return torch.cartesian_prod(*sides)
