"""Token routing: some image tokens go around some blocks while a model is trained."""

from __future__ import annotations

from dataclasses import dataclass

from lidit_core.errors import check

LEAST = 256  # image tokens from which the paper routes


@dataclass(frozen=True)
class Routing:
    """TREAD (Krause et al. 2025, arXiv 2501.04765).

    A share of every picture's tokens, another at each step, leaves before one block and comes back
    as it was behind a later one. Those steps are cheaper; pictures are drawn with all tokens.
    """

    share: float = 0.5  # in (0, 1), of the tokens that go around
    first: int = 2  # block that they go around, from 0
    last: int = -5  # that they go around too, and all between; negative counts from the end

    def __post_init__(self) -> None:
        check(
            0 < self.share < 1,
            f"the recipe's routing has share={self.share}; expected above 0 and below 1",
        )

    def blocks(self, depth: int) -> range:
        """The blocks that tokens go around, of so many."""
        last = self.last if self.last >= 0 else depth + self.last
        return range(self.first, last + 1)

    def kept(self, tokens: int) -> int:
        """How many of a picture's tokens stay."""
        return max(1, tokens - int(self.share * tokens))
