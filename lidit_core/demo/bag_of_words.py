"""The demo checkpoint's text encoder: weak on purpose, so that an adapter has something to repair.

It knows a word by one of a few numbers, which it shares with many other words, and it does not know
where the word stood: what people say of CLIP (Yuksekgonul et al. 2023, arXiv 2210.01936), only more
so.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..text.words import word_numbers

LENGTH = 32  # tokens of every prompt where a file names no other number; CLIP's are always 77
NOTHING = 0  # the token after the last word


class BagOfWords(nn.Module):
    """Prompts to tokens (B, length, width).

    Args:
        buckets: numbers that all words share.
        length: tokens of every prompt; the words after it are not read.
    """

    def __init__(
        self,
        width: int = 64,
        buckets: int = 16,
        length: int = LENGTH,
        operations=nn,
        dtype=None,
        device=None,
    ):
        super().__init__()
        self.buckets, self.length = buckets, length
        self.words = operations.Embedding(buckets + 1, width, dtype=dtype, device=device)

    def forward(self, ids: Tensor) -> Tensor:
        """Read ids (B, length) as vectors (B, length, width)."""
        return self.words(ids)

    def tokenize(self, text: str) -> list[int]:
        """A number of 1 to ``buckets`` for each word, and ``NOTHING`` after the last."""
        ids = word_numbers(text, self.buckets)[: self.length]
        return ids + [NOTHING] * (self.length - len(ids))

    def read(self, texts: list[str]) -> Tensor:
        """Compute the tokens of some prompts, (B, length, width)."""
        ids = torch.tensor([self.tokenize(text) for text in texts])
        return self(ids.to(self.words.weight.device))
