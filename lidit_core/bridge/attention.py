"""Attention of a bridge: rotary embedding by character, and a bias by shared characters.

Shapes: B prompts, R rows that ask, L tokens that are read, D the width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..model.attention import AttentionFunction
from ..model.layers import QKNorm

LONGEST = 10_000.0  # characters of the slowest rotation, over 2π
LEAST = 1e-3  # added to a share before its logarithm is taken


def rotated(x: Tensor, places: Tensor, heads: int) -> Tensor:
    """Rotary embedding (Su et al. 2021, arXiv 2104.09864) of x (B, R, D) at places (B, R)."""
    half = x.shape[-1] // heads // 2
    exponents = torch.arange(half, device=x.device, dtype=torch.float32) / half
    angles = places.float()[..., None, None] * LONGEST**-exponents  # (B, R, 1, half)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.unflatten(-1, (heads, 2, half)).unbind(-2)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-2).flatten(-3)


class PlacedAttention(nn.Module):
    """Rows read tokens, or one another, knowing where in the prompt each lies."""

    def __init__(self, width: int, heads: int, operations=nn, dtype=None, device=None) -> None:
        super().__init__()
        layer = {"dtype": dtype, "device": device}
        self.heads = heads
        self.q = operations.Linear(width, width, **layer)
        self.kv = operations.Linear(width, 2 * width, **layer)
        self.norm = QKNorm(width, heads, True, operations, dtype, device)
        self.proj = operations.Linear(width, width, **layer)

    def forward(
        self,
        x: Tensor,
        read: Tensor,
        places: tuple[Tensor, Tensor],
        attention: AttentionFunction,
        mask: Tensor | None,
    ) -> Tensor:
        """Let each row of x (B, R, D) attend to what is read (B, L, D), with rotary embedding.

        Args:
            places: of x (B, R) and of what is read (B, L), in characters of the prompt.
            mask: added to the scores, broadcastable to (B, heads, R, L); None = all is seen.
        Returns:
            (B, R, D)
        """
        k, v = self.kv(read).chunk(2, dim=-1)
        q, k = self.norm(self.q(x), k)
        q, k = rotated(q, places[0], self.heads), rotated(k, places[1], self.heads)
        return self.proj(attention(q, k, v, self.heads, mask=mask))


class OverlapBias(nn.Module):
    """The attention bias β_h · log(1e-3 + share) of each head h; β is learnt and starts at 1."""

    def __init__(self, heads: int, dtype=None, device=None) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.ones(heads, dtype=dtype, device=device))

    def forward(self, shares: Tensor) -> Tensor:
        """Compute the bias of the attention scores from shares: (B, R, L) -> (B, heads, R, L)."""
        return self.beta[:, None, None] * (shares + LEAST).log()[:, None]
