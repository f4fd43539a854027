"""What a decoder's blocks give while it runs, taken from the blocks themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from ..errors import LiDiTError
from ..llm.decoder.build import decoder_blocks


class BlockOutputs:
    """The states that enter the first block, and those that each block gives, (B, L, C) each."""

    def __init__(self, blocks: int, every: bool) -> None:
        self.blocks, self.every = blocks, every
        self.states: list[Tensor] = []  # of every block, or of the last alone
        self.ran: list[int] = []  # the blocks' numbers in the order that they ran

    def take(self, number: int, entered: Tensor, left: Tensor) -> None:
        """Note that a block ran."""
        if self.every and not self.ran:
            self.states.append(entered)
        if self.every or number == self.blocks - 1:
            self.states.append(left)
        self.ran.append(number)

    def check(self, kind: str) -> None:
        """Raise a LiDiTError unless every block ran once, in order."""
        if self.ran != list(range(self.blocks)):
            raise LiDiTError(
                f"of the {self.blocks} blocks of this {kind} {len(self.ran)} ran; expected each "
                "once and in order, so choose an LLM of another kind"
            )


@contextmanager
def block_outputs(module: nn.Module, every: bool = False) -> Iterator[BlockOutputs]:
    """Take what the decoder's blocks give while it runs once within the block.

    Args:
        every: of every block, and what enters the first; otherwise of the last block alone.
    """
    blocks = decoder_blocks(module)
    outputs = BlockOutputs(len(blocks), every)

    def watching(number: int):
        def hook(block: nn.Module, args: tuple, options: dict, out) -> None:
            entered = args[0] if args else options["hidden_states"]
            outputs.take(number, entered, first_tensor(out))

        return hook

    hooks = [b.register_forward_hook(watching(i), with_kwargs=True) for i, b in enumerate(blocks)]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
    outputs.check(type(module).__name__)


def first_tensor(out) -> Tensor:
    """The states that a block gives: releases differ in what comes with them."""
    return out[0] if isinstance(out, tuple) else out
