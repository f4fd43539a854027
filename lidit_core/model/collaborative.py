"""The collaborative refiner of LI-DiT (arXiv 2406.11831, Sec. 3.2): the LLMs read one another.

Shapes: B samples, L tokens of one LLM, K of the others, D the model's width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, Sequence

import torch
from torch import Tensor, nn

from .attention import AttentionFunction
from .branch import Branch, branch_bias
from .config import RefinerConfig
from .layers import CrossAttention, Modulation, feed_forward, modulate, plain_norm
from .lists import ListOf


@dataclass(frozen=True, eq=False)
class Others:
    """The tokens that a branch reads of the others."""

    tokens: Tensor  # (B, K, D)
    bias: Tensor | None  # (B, 1, 1, K), or None where every token counts equally
    share: Tensor  # (B, 1, 1) in 0 to 1, what is taken of what is read; 0 = there is no other


class CollaborativeBlock(nn.Module):
    """One branch reads the others (cross-attention, then FFN), both modulated by its own c."""

    def __init__(
        self, width: int, heads: int, qk_norm=True, operations=nn, dtype=None, device=None
    ) -> None:
        super().__init__()
        layer = {"operations": operations, "dtype": dtype, "device": device}
        self.query_norm = plain_norm(width, **layer)
        self.others_norm = plain_norm(width, **layer)
        self.cross_attn = CrossAttention(width, heads, qk_norm, **layer)
        self.mlp_norm = plain_norm(width, **layer)
        self.mlp = feed_forward(width, nn.SiLU(), **layer)
        self.modulation = Modulation(width, 6, **layer)

    def forward(
        self,
        branch: Branch,
        others: Others,
        attention: AttentionFunction,
    ) -> Tensor:
        """Read the other branches; returns (B, L, D).

        A sample whose other branches hold no token passes unchanged, as with one LLM.
        """
        x = branch.tokens
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(branch.c)
        gate1, gate2 = gate1 * others.share, gate2 * others.share
        query, read = modulate(self.query_norm(x), shift1, scale1), self.others_norm(others.tokens)
        x = x + gate1 * self.cross_attn(query, read, attention, others.bias)
        return x + gate2 * self.mlp(modulate(self.mlp_norm(x), shift2, scale2))


class CollaborativeRefiner(nn.Module):
    """N parallel branches, each reading the others as they were at the block's input."""

    def __init__(
        self,
        branches: int,
        width: int,
        heads: int,
        config: RefinerConfig,
        operations=nn,
        dtype=None,
        device=None,
    ) -> None:
        super().__init__()
        layer = {"operations": operations, "dtype": dtype, "device": device}
        blocks = config.collaborative_blocks if branches > 1 else 0
        self.blocks = blocks
        self.branches = ListOf(
            ListOf(CollaborativeBlock(width, heads, config.qk_norm, **layer) for _ in range(blocks))
            for _ in range(branches)
        )

    def forward(
        self, branches: Mapping[int, Branch], attention: AttentionFunction
    ) -> dict[int, Branch]:
        """The same branches, fused; with one of them this is the identity."""
        branches = dict(branches)
        if len(branches) < 2:
            return branches
        for n in range(self.blocks):
            branches = {
                i: of.with_tokens(self.branches[i][n](of, others_of(branches, i), attention))
                for i, of in branches.items()
            }
        return branches


def others_of(branches: Mapping[int, Branch], i: int) -> Others:
    """The tokens of every branch but i."""
    others = [branch for j, branch in branches.items() if j != i]
    return Others(torch.cat([b.tokens for b in others], dim=1), branch_bias(others), _share(others))


def _share(others: Sequence[Branch]) -> Tensor:
    """The largest weight of those that hold a token, at most 1: (B, 1, 1).

    A constant on every key of the only other branch cancels in the softmax, so without this factor
    a weight near 0 would be far from a branch that is removed.
    """
    shares = [b.holds.to(b.tokens.dtype) * min(b.weight or 1.0, 1.0) for b in others]
    return torch.stack(shares).amax(dim=0)[:, None, None]
