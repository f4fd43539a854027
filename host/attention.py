"""The library's attention function by the host's."""

from __future__ import annotations

from comfy.ldm.modules.attention import attention_pytorch, optimized_attention
from torch import Tensor


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    mask: Tensor | None = None,
    options: dict | None = None,
) -> Tensor:
    """Attend from q (B, L, D) to k and v (B, K, D); options are the host's transformer_options.

    On a CPU the host's choice is its sub-quadratic one, made for GPUs without a fused kernel;
    PyTorch has a fused one for CPUs, which takes a third of the time and no more memory.
    """
    if mask is not None:
        mask = mask.expand(q.shape[0], 1, q.shape[1], k.shape[1])
    chosen = attention_pytorch if q.device.type == "cpu" else optimized_attention
    return chosen(q, k, v, heads, mask=mask, transformer_options=options or {})
