"""The choice of an LLM's blocks to read, as loaders, configurations and recipes write it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import LiDiTError, check, is_whole, shown

EVERY_BLOCK = ("all", "differences")  # states of all blocks side by side
MOST_TAPS = 8  # of `default_taps`
Block = int | str | tuple[int, ...]  # an index, one of `EVERY_BLOCK`, or several indices: taps


def plain_block(block: Block | Sequence[int]) -> Any:
    """The same as a number, a word or a tuple; one tap is the number that it is.

    Raises:
        LiDiTError: there is no tap, or one of them twice.
    """
    if not isinstance(block, (list, tuple)):
        return block  # what it is worth is seen where the LLM's blocks are known
    taps = tuple(block)
    check(
        len(taps) > 0 and all(map(is_whole, taps)) and len(set(taps)) == len(taps),
        f"blocks are {shown(taps)}; expected different whole numbers, as -3, -9, -15",
    )
    return taps[0] if len(taps) == 1 else taps


def shown_block(block: Block) -> str:
    """The choice as users write it: -3, all, or -3,-9,-15."""
    return ",".join(map(str, block)) if isinstance(block, tuple) else str(block)


def taps_in(block: Block) -> int:
    """How many states of the LLM's width a token has; 1 for `EVERY_BLOCK`, which are one."""
    return len(block) if isinstance(block, tuple) else 1


def tap_indices(block: Block, total: int, name: str = "the LLM") -> tuple[int, ...]:
    """The taps as indices from the embeddings (0) on; () where they are not several."""
    if not isinstance(block, tuple):
        return ()
    taps = tuple(kept_blocks(tap, total, name) for tap in block)
    check(
        len(set(taps)) == len(taps),
        f"blocks {shown_block(block)} of {name}, which has {total}, are the same one twice; "
        "expected different ones",
    )
    return taps


def default_taps(total: int) -> tuple[int, ...]:
    """Every third block and the third to last, at most 8 of them, spread evenly."""
    last = max(total - 2, 1)
    taps = sorted({*range(3, last, 3), last})
    if len(taps) > MOST_TAPS:
        step = (len(taps) - 1) / (MOST_TAPS - 1)
        taps = [taps[round(n * step)] for n in range(MOST_TAPS)]
    return tuple(taps)


def kept_blocks(block: Block, total: int, name: str = "the LLM") -> int:
    """How many blocks are needed for `block`."""
    if isinstance(block, tuple):
        return max(kept_blocks(tap, total, name) for tap in block)
    if block in EVERY_BLOCK:
        return total
    if isinstance(block, bool) or not isinstance(block, int):
        raise LiDiTError(
            f"block is {shown(block)}; expected a whole number, several, 'all' or 'differences'"
        )
    kept = block + total + 1 if block < 0 else block
    if not 1 <= kept <= total:
        raise LiDiTError(
            f"block {block} is not in {name}, which has {total} blocks; choose 1 to {total}, "
            f"or -{total} to -1 counted from the end"
        )
    return kept
