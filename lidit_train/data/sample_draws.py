"""What chance decides for one row of a batch: from seed, step and row alone.

So a batch is the same however many processes share it and whatever is cached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lidit_core.diffusion.times import Focus, sample_time

from ..recipe import Data
from .schedule import seeded


@dataclass(frozen=True, eq=False)
class SampleDraws:
    """What is drawn for one row of a batch."""

    caption: float  # in [0, 1): which of its captions is read
    dropped: bool  # reads the empty prompt instead
    zeroed: bool  # reads no token at all
    time: Tensor  # () in (0, 1]
    noise: Tensor  # (C, h, w)

    def choose(self, captions: Sequence[tuple[str, float]]) -> str:
        """One of the captions, each as often as its weight says; the empty one where dropped."""
        if self.dropped:
            return ""
        left = self.caption * sum(weight for _, weight in captions)
        for text, weight in captions:
            left -= weight
            if left < 0:
                return text
        return captions[-1][0]


def kept_tokens(seed: int, step: int, row: int, tokens: int, kept: int) -> Tensor:
    """The places (kept,) of the image tokens of one row that go through every block, in order."""
    g = seeded(seed, step, row, 2)
    return torch.randperm(tokens, generator=g)[:kept].sort().values


def draw_sample(
    seed: int,
    step: int,
    row: int,
    data: Data,
    prediction: str,
    shift: float,
    shape: tuple[int, int, int],
    focus: Focus | None = None,
) -> SampleDraws:
    """Draw a row's caption, dropout, time and noise from seed, step and row alone.

    Args:
        row: of the whole batch, over all processes.
        shift: of the time towards noise; 1 = none.
        shape: (C, h, w) of the latents.
        focus: a range of times that is drawn from more often.
    """
    g = seeded(seed, step, row, 1)
    caption, text = torch.rand(2, generator=g, dtype=torch.float64).tolist()
    time = sample_time(prediction, 1, shift, g, focus)[0]
    noise = torch.randn(shape, generator=g)
    dropped, zeroed = text < data.caption_dropout, text >= 1 - data.text_zeroing
    return SampleDraws(caption, dropped, zeroed, time, noise)
