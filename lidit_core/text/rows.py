"""Places of the tokens of a batch's prompts, as numbers of Python: no step waits for a device.

A compiled model is compiled anew where something that it has asked of Python changes. It asks for
the facts of a batch alone, never for its rows, so that prompts of other lengths find it compiled.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class RowTokens(NamedTuple):
    """The numbers of one prompt's tokens in its row, and the place of the first."""

    seen: int  # tokens that are no padding
    kept: int  # tokens of the prompt
    first: int  # the first of those; 0 where there is none


NO_TOKENS = RowTokens(0, 0, 0)


@dataclass(frozen=True)
class Rows:
    """The rows of a batch, and the facts that a model decides by."""

    each: tuple[RowTokens, ...]
    all_seen: bool  # no row has padding
    first: int  # the first token that any row keeps; 0 where none does
    all_kept: bool  # every row keeps all tokens from that one on
    present: bool  # every row keeps a token

    @staticmethod
    def of(each: Iterable[RowTokens], length: int) -> Rows:
        """Sum up the rows of a batch of so many tokens, padding included."""
        each = tuple(each)
        firsts = [row.first for row in each if row.kept]
        first = min(firsts) if firsts else 0
        return Rows(
            each,
            all([row.seen == length for row in each]),
            first,
            all([row.kept == length - first for row in each]),
            len(firsts) == len(each),
        )

    @staticmethod
    def read(seen: Tensor, kept: Tensor) -> Rows:
        """Read them from masks (B, L); this waits for the device that those are on."""
        rows, length = seen.shape
        if not length:
            return Rows.of((NO_TOKENS,) * rows, 0)
        firsts = kept.to(torch.int32).argmax(1)
        numbers = torch.stack([seen.sum(1), kept.sum(1), firsts], dim=1).tolist()
        return Rows.of(map(RowTokens._make, numbers), length)

    def emptied(self, where: Sequence[bool], length: int) -> Rows:
        """Take every token from some of the rows."""
        each = (NO_TOKENS if empty else row for row, empty in zip(self.each, where))
        return Rows.of(each, length)
