"""What a decoder's blocks give while it runs, taken from the blocks themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from ..errors import LiDiTError
from ..llm.decoder.build import decoder_blocks


class BlockOutputs:
    """The states (B, L, C) that blocks give; those before the first one have the index 0."""

    def __init__(self, blocks: int, wanted: Sequence[int]) -> None:
        self.blocks, self.wanted = blocks, wanted
        self.taken: dict[int, Tensor] = {}  # by their index
        self.ran: list[int] = []  # the blocks' numbers in the order that they ran

    def take(self, number: int, entered: Tensor, left: Tensor) -> None:
        """Note that a block ran."""
        if number == 0 and 0 in self.wanted:
            self.taken[0] = entered
        if number + 1 in self.wanted:
            self.taken[number + 1] = left
        self.ran.append(number)

    @property
    def states(self) -> list[Tensor]:
        """The states that are wanted, in the order in which they were asked for."""
        return [self.taken[index] for index in self.wanted]

    def check(self, kind: str) -> None:
        """Raise a LiDiTError unless every block ran once, in order."""
        if self.ran != list(range(self.blocks)):
            raise LiDiTError(
                f"of the {self.blocks} blocks of this {kind} {len(self.ran)} ran; expected each "
                "once and in order, so choose an LLM of another kind"
            )


@contextmanager
def block_outputs(
    module: nn.Module, taps: Sequence[int] = (), every: bool = False
) -> Iterator[BlockOutputs]:
    """Take what the decoder's blocks give while it runs once within the block.

    Args:
        taps: the indices of the states that are wanted; by default the last block's alone.
        every: those of every block are wanted, and before them what enters the first.
    """
    blocks = decoder_blocks(module)
    wanted = range(len(blocks) + 1) if every else taps or (len(blocks),)
    outputs = BlockOutputs(len(blocks), wanted)

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
    return out[0] if isinstance(out, (tuple, list)) else out
