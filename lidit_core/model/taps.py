"""Several layers of an LLM in the place of one: the taps of a branch and how they are mixed.

With n_k = RMSNorm(h_k) of each tap by itself, without a gain, g the entry norm's gain and
e(x) = W (g * x) + b the entry, a branch's tokens are e of a mix of the n_k:

- ``mean``: their mean, no parameters.
- ``linear``: the sum of a_k n_k, a_k = 1 / K at the start and free afterwards.
- ``routed``: the mean, from which everything is computed; transformer block b then reads
  e(sum of alpha_bk n_k) + (refined tokens - e(mean)), with alpha_b a softmax over the taps.

Krea 2, FLUX.2 and others read several layers so (arXiv 2506.08210, 2602.03510). As e is affine and
alpha_b sums to 1, e(n_1) ... e(n_K) are computed once and serve every block.

Shapes: B samples, L tokens, K taps, C the LLM's width, D the model's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..precision import without_autocast


@dataclass(frozen=True, eq=False)
class RoutedTaps:
    """What the transformer's blocks read of the taps beside the refined tokens."""

    entered: Tensor  # (B, L, K, D): e(n_k)
    shares: Tensor  # (depth, K) float32: alpha - 1 / K

    def of_block(self, index: int) -> Tensor:
        """What is added to the tokens for one block: (B, L, D)."""
        share = self.shares[index].to(self.entered.dtype)
        return torch.einsum("k,blkd->bld", share, self.entered)

    def cut(self, first: int) -> RoutedTaps:
        """The taps, less those of tokens before the first that is kept."""
        return replace(self, entered=self.entered[:, first:])

    def after(self, registers: int) -> RoutedTaps:
        """The taps behind so many tokens that they do not change."""
        rows, _, taps, width = self.entered.shape
        none = self.entered.new_zeros(rows, registers, taps, width)
        return replace(self, entered=torch.cat([none, self.entered], dim=1))


class TapMix(nn.Module):
    """The parameters of a mix. They lie in embeddings, which a host can manage, and do not decay.

    Args:
        depth: transformer blocks, of which each chooses where the mix is routed.
    """

    def __init__(self, taps: int, mix: str, depth: int, operations=nn, dtype=None, device=None):
        super().__init__()
        layer = {"dtype": dtype, "device": device}
        self.taps = taps
        self.linear = operations.Embedding(1, taps, **layer) if mix == "linear" else None
        self.routes = operations.Embedding(depth, taps, **layer) if mix == "routed" else None

    def forward(self, normed: Tensor) -> Tensor:
        """Mix normed states (B, L, K, C) float32 to (B, L, C)."""
        if self.linear is None:
            return normed.mean(dim=2)
        with without_autocast(normed.device):
            return torch.einsum("k,blkc->blc", table(self.linear, normed)[0], normed)

    def routed(self, entered: Tensor) -> RoutedTaps | None:
        """What the blocks read beside the mean, of e(n_k) (B, L, K, D)."""
        if self.routes is None:
            return None
        shares = torch.softmax(table(self.routes, entered), dim=-1) - 1 / self.taps
        return RoutedTaps(entered, shares)

    @torch.no_grad()
    def initialise(self) -> None:
        """Every mix is the mean at the start."""
        if self.linear is not None:
            nn.init.constant_(self.linear.weight, 1 / self.taps)
        if self.routes is not None:
            nn.init.zeros_(self.routes.weight)


def table(of: nn.Embedding, beside: Tensor) -> Tensor:
    """All rows of an embedding, float32, on the device of a tensor."""
    return of(torch.arange(of.num_embeddings, device=beside.device)).float()


def added_by_block(parts: Sequence[tuple[Tensor, RoutedTaps | None]], index: int) -> Tensor:
    """What is added for one block to the tokens (B, L, D) of several branches, side by side."""
    return torch.cat(
        [torch.zeros_like(x) if taps is None else taps.of_block(index) for x, taps in parts], dim=1
    )
