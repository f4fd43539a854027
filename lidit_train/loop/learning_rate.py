"""The learning rate over a run: warm-up, constant, one decay."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

from ..data.schedule import stage_at
from ..recipe import Optimiser, Stage


def rate_factor(
    step: int, warmup: int, total: int, decay: float, schedule: str = "linear"
) -> float:
    """Linear warm-up, a plateau, and a fall to zero over the last share ``decay``.

    A plateau lets a run be lengthened without having spent its schedule (WSD).
    """
    return min((step + 1) / max(warmup, 1), decay_factor(step, total, decay, schedule))


def decay_factor(step: int, total: int, decay: float, schedule: str = "linear") -> float:
    """What the decay leaves of the rate at a step: 1 until it begins, then falling to 0.

    Args:
        schedule: "linear", or "cosine", half a period of it (Loshchilov and Hutter 2017, arXiv
            1608.03983): slow at both ends. With decay 1 that is the usual cosine over a whole run.
    """
    left = max(min(1.0, (total - step) / max(decay * total, 1)), 0.0)
    return left if schedule == "linear" else (1 - math.cos(math.pi * left)) / 2


def decay_start(total: int, decay: float) -> int:
    """The first step whose rate the decay lowers; ``total`` where it lowers none."""
    return bisect_left(range(total), True, key=lambda step: decay_factor(step, total, decay) < 1)


def learning_rate(step: int, optimiser: Optimiser, stages: Sequence[Stage]) -> float:
    """A recipe's rate at a step, which its stage may scale."""
    o, (_, stage) = optimiser, stage_at(step, stages)
    total = sum(each.steps for each in stages)
    factor = rate_factor(step, o.warmup, total, o.decay, o.schedule)
    return o.learning_rate * stage.rate * factor
