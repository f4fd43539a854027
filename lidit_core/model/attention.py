"""The one attention function of the library; a host passes its own in its place."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

MASKED = -1e4  # bias of a key that must not be seen: exp() of it is 0 in every dtype, never NaN


class AttentionFunction(Protocol):
    """Multi-head attention; shapes as of `scaled_dot_product`."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None
    ) -> Tensor: ...


def scaled_dot_product(
    q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None
) -> Tensor:
    """Multi-head attention by PyTorch's fused kernel.

    Under autocast on a CPU it stays in float32: backwards the kernel takes six times as long in
    bfloat16.

    Args:
        q: (B, L, D); k, v: (B, K, D), with D = heads · head width.
        mask: added to the scores, broadcastable to (B, heads, L, K); None = every key is seen.
    Returns:
        (B, L, D)
    """
    if q.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            mask = None if mask is None else mask.float()
            return scaled_dot_product(q.float(), k.float(), v.float(), heads, mask)
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def key_bias(seen: Tensor, dtype: torch.dtype, all_seen: bool) -> Tensor | None:
    """A mask (B, K) of keys, True = seen, as a bias (B, 1, 1, K); None where all are seen.

    Args:
        all_seen: whether all are seen, which is known beforehand: a look would wait for the device.
    """
    if all_seen:
        return None
    return ((~seen).to(dtype) * MASKED)[:, None, None, :]
