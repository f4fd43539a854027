"""Intervals of scores: Wilson's for shares, and the bootstrap over prompts for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np

RESAMPLES = 10_000
SEED = 0  # of the bootstrap: two reports of the same verdicts are the same


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval (1927) of the share hits / n, in [0, 1]; z = 1.96 for 95 %."""
    if n == 0:
        return 0.0, 1.0
    share, width = hits / n, z * z / n
    middle = (share + width / 2) / (1 + width)
    half = z * sqrt(share * (1 - share) / n + width / (4 * n)) / (1 + width)
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean of prompts' values, resampled (Efron 1979, percentiles).

    Of no value it is (0, 1).
    """
    if not len(values):
        return 0.0, 1.0
    drawn = np.asarray(values, np.float64)
    generator = np.random.default_rng(SEED)
    means = [generator.choice(drawn, len(drawn)).mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def bootstrap_by_group(groups: Sequence[Sequence[float]]) -> tuple[float, float]:
    """95 % interval of the mean of groups' means, each group resampled by itself; none is empty."""
    generator = np.random.default_rng(SEED)
    drawn = [np.asarray(group, np.float64) for group in groups]
    means = [generator.choice(values, (RESAMPLES, len(values))).mean(1) for values in drawn]
    low, high = np.percentile(np.mean(means, axis=0), (2.5, 97.5))
    return float(low), float(high)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean of prompts' scores in [0, 1]."""
    if set(values) <= {0.0, 1.0}:
        return wilson(round(sum(values)), len(values))
    return bootstrap(values)
