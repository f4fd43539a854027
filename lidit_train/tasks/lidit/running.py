"""How a LI-DiT's blocks run in training."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lidit_core.model.dit import LiDiTBlock, run_block

from .routing import Routed


class BlockRunner:
    """Runs the blocks of one forward pass, and keeps the tokens that the loss reads.

    It is the model's `run_block`.

    Args:
        watched: the blocks whose tokens are kept.
        checkpointing: their activations are computed again in the backward pass.
        routed: where tokens go around blocks.
    """

    def __init__(
        self, watched: Collection[int], checkpointing: bool, routed: Routed | None
    ) -> None:
        self.watched, self.checkpointing, self.routed = watched, checkpointing, routed
        self.seen: dict[int, Tensor] = {}  # (B, N, D), by block

    def __call__(self, index: int, block: LiDiTBlock, x: Tensor, *rest) -> Tensor:
        x = self.routed.before(index, x) if self.routed else x
        if self.checkpointing and torch.is_grad_enabled():
            x = checkpoint(run_block, index, block, x, *rest, use_reentrant=False)
        else:
            x = run_block(index, block, x, *rest)
        x = self.routed.after(index, x) if self.routed else x
        if index in self.watched:
            self.seen[index] = x
        return x
