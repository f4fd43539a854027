"""How a LI-DiT's blocks run in training."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lidit_core.model.dit import LiDiTBlock, run_block
from lidit_core.model.text_side import TextContext

from .routing import Routed


class BlockRunner:
    """Runs the blocks of one forward pass, and keeps the tokens and the text that the loss reads.

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
        self.text: TextContext | None = None  # what the first block reads

    def __call__(
        self, index: int, block: LiDiTBlock, x: Tensor, c: Tensor, text: TextContext, *rest
    ) -> Tensor:
        self.text = self.text or text
        x = self.routed.before(index, x) if self.routed else x
        if self.checkpointing and torch.is_grad_enabled():
            x = checkpoint(run_block, index, block, x, c, text, *rest, use_reentrant=False)
        else:
            x = run_block(index, block, x, c, text, *rest)
        x = self.routed.after(index, x) if self.routed else x
        if index in self.watched:
            self.seen[index] = x
        return x
