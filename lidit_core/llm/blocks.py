"""Which of an LLM's blocks are read, as loaders, configurations and recipes write it."""

from __future__ import annotations

from ..errors import LiDiTError

EVERY_BLOCK = ("all", "differences")  # states of all blocks side by side


def kept_blocks(block: int | str, total: int, name: str = "the LLM") -> int:
    """How many blocks are needed for `block`, an index or one of `EVERY_BLOCK`."""
    if block in EVERY_BLOCK:
        return total
    if isinstance(block, bool) or not isinstance(block, int):
        raise LiDiTError(f"block is {block!r}; expected a whole number, 'all' or 'differences'")
    kept = block + total + 1 if block < 0 else block
    if not 1 <= kept <= total:
        raise LiDiTError(
            f"block {block} is not in {name}, which has {total} blocks; choose 1 to {total}, "
            f"or -{total} to -1 counted from the end"
        )
    return kept
