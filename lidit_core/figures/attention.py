"""Attention that is noted while it runs: the mean over calls and heads."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import check
from ..model.attention import AttentionFunction, scaled_dot_product


class NotedAttention:
    """An attention function that keeps how much each query of the first sample looks at each key.

    Args:
        attention: what computes the result.
    """

    def __init__(self, attention: AttentionFunction = scaled_dot_product) -> None:
        self.attention = attention
        self.total, self.calls = torch.zeros(()), 0

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None
    ) -> Tensor:
        """Compute `scaled_dot_product` and note the attention."""
        queries, keys = (x[:1].unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k))
        self.note(queries, keys, mask)
        return self.attention(q, k, v, heads, mask=mask)

    def note(self, q: Tensor, k: Tensor, mask: Tensor | None) -> None:
        """Add the first sample's attention of one call: q (B, heads, L, ·), k (B, heads, K, ·)."""
        scores = q[:1].float() @ k[:1].float().mT * q.shape[-1] ** -0.5
        shares = (scores if mask is None else scores + mask[:1].float()).softmax(-1)
        self.total = self.total + shares.mean(dim=1)[0].cpu()
        self.calls += 1

    def mean(self) -> Tensor:
        """The mean over all calls and heads: (L, K) float32, each row of which sums to 1."""
        check(self.calls > 0, "no attention ran; expected a call before what it looks at is asked")
        return self.total / self.calls
