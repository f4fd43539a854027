"""Layers that the refiners and the transformer share.

Every layer is built from ``operations`` (``torch.nn``, or a host's own set with the same names),
so that fp8 storage, partial loading and LoRA need no second implementation.
Shapes: B samples, L tokens, K keys, D the model's width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import AttentionFunction

EPS = 1e-6  # of every normalisation
FREQUENCIES = 256  # length of the sinusoidal timestep vector


def timestep_frequencies(t: Tensor, max_period: float = 10_000.0) -> Tensor:
    """Sinusoids of the timestep, as in DiT and HunyuanVideo. t: (B,) in [0, 1000] -> (B, 256)."""
    half = FREQUENCIES // 2
    exponents = torch.arange(half, dtype=torch.float32, device=t.device) / half
    angles = t.float()[:, None] * torch.exp(-math.log(max_period) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TwoLayerMap(nn.Module):
    """Linear, SiLU, Linear: HunyuanVideo's map for timesteps and pooled contexts."""

    def __init__(self, n_in: int, width: int, operations=nn, dtype=None, device=None) -> None:
        super().__init__()
        self.in_layer = operations.Linear(n_in, width, dtype=dtype, device=device)
        self.silu = nn.SiLU()
        self.out_layer = operations.Linear(width, width, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_layer(self.silu(self.in_layer(x)))


class TimestepEmbedder(TwoLayerMap):
    """Embeds t (B,) in [0, 1000] as (B, D)."""

    def __init__(self, width: int, operations=nn, dtype=None, device=None) -> None:
        super().__init__(FREQUENCIES, width, operations, dtype, device)

    def forward(self, t: Tensor, dtype: torch.dtype) -> Tensor:
        return super().forward(timestep_frequencies(t).to(dtype))


class RMSNorm(nn.RMSNorm):
    """The RMSNorm of torch, in the precision of what it reads.

    Under autocast the gain is float32 and the input is not; torch has no kernel for such a pair and
    takes six in its place, and some fifteen in the backward pass.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, weight=self.weight.to(x.dtype), eps=self.eps)


def rms_norm(width: int, operations=nn, dtype=None, device=None) -> nn.RMSNorm:
    """RMSNorm with a gain, the host's own where the layers are a host's."""
    made = RMSNorm if operations is nn else operations.RMSNorm
    return made(width, eps=EPS, dtype=dtype, device=device)


class QKNorm(nn.Module):
    """RMSNorm on each head's query and key (paper, Sec. 3.3), or nothing when switched off."""

    def __init__(
        self, width: int, heads: int, enabled=True, operations=nn, dtype=None, device=None
    ):
        super().__init__()
        self.heads = heads
        self.enabled = enabled
        if enabled:
            head = width // heads
            self.query_norm = rms_norm(head, operations, dtype, device)
            self.key_norm = rms_norm(head, operations, dtype, device)

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        if not self.enabled:
            return q, k
        q, k = (x.unflatten(-1, (self.heads, -1)) for x in (q, k))
        return self.query_norm(q).flatten(-2), self.key_norm(k).flatten(-2)


class SelfAttention(nn.Module):
    """Multi-head self-attention: x (B, L, D) -> (B, L, D); queries and keys normed by `QKNorm`."""

    def __init__(
        self, width: int, heads: int, qk_norm=True, operations=nn, dtype=None, device=None
    ) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = operations.Linear(width, 3 * width, dtype=dtype, device=device)
        self.norm = QKNorm(width, heads, qk_norm, operations, dtype, device)
        self.proj = operations.Linear(width, width, dtype=dtype, device=device)

    def forward(
        self, x: Tensor, attention: AttentionFunction, mask: Tensor | None = None
    ) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)  # (B, L, D) each
        q, k = self.norm(q, k)
        return self.proj(attention(q, k, v, self.heads, mask=mask))


class CrossAttention(nn.Module):
    """Tokens x (B, L, D) read a context (B, K, D) -> (B, L, D); normed as in `SelfAttention`."""

    def __init__(
        self, width: int, heads: int, qk_norm=True, operations=nn, dtype=None, device=None
    ) -> None:
        super().__init__()
        self.heads = heads
        self.q = operations.Linear(width, width, dtype=dtype, device=device)
        self.kv = operations.Linear(width, 2 * width, dtype=dtype, device=device)
        self.norm = QKNorm(width, heads, qk_norm, operations, dtype, device)
        self.proj = operations.Linear(width, width, dtype=dtype, device=device)

    def forward(
        self, x: Tensor, context: Tensor, attention: AttentionFunction, mask: Tensor | None = None
    ) -> Tensor:
        k, v = self.kv(context).chunk(2, dim=-1)  # (B, K, D) each
        q, k = self.norm(self.q(x), k)
        return self.proj(attention(q, k, v, self.heads, mask=mask))


def feed_forward(
    width: int, act: nn.Module, operations=nn, dtype=None, device=None
) -> nn.Sequential:
    """Linear to 4·D, activation, Linear back."""
    return nn.Sequential(
        operations.Linear(width, 4 * width, dtype=dtype, device=device),
        act,
        operations.Linear(4 * width, width, dtype=dtype, device=device),
    )


class GELU(nn.GELU):
    """GELU (its tanh form), written over its input where no gradient is wanted.

    Its input is a Linear's fresh output of 4·D numbers a token, the largest tensor of a step. A
    second one of that size makes a CPU's allocator fetch its pages anew: 4 % of LI-DiT-1B's step.
    """

    def __init__(self) -> None:
        super().__init__(approximate="tanh")

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return super().forward(x)
        return torch.ops.aten.gelu_(x, approximate=self.approximate)


class Modulation(nn.Module):
    """SiLU and one Linear from a conditioning vector (B, D) to ``count`` vectors (B, 1, D)."""

    def __init__(self, width: int, count: int, operations=nn, dtype=None, device=None) -> None:
        super().__init__()
        self.count = count
        self.silu = nn.SiLU()
        self.linear = operations.Linear(width, count * width, dtype=dtype, device=device)

    def forward(self, c: Tensor) -> tuple[Tensor, ...]:
        return self.linear(self.silu(c))[:, None].chunk(self.count, dim=-1)


def plain_norm(width: int, operations=nn, dtype=None, device=None) -> nn.Module:
    """LayerNorm without weights of its own: what follows modulates it."""
    return operations.LayerNorm(
        width, elementwise_affine=False, eps=EPS, dtype=dtype, device=device
    )


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Compute x · (1 + scale) + shift, as in DiT: x (B, L, D), shift and scale (B, 1, D)."""
    return torch.addcmul(shift, x, 1 + scale)
