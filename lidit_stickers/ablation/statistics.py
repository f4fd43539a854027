"""Differences between variants, paired over scenes; what seeds bring is pooled over variants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from scipy.stats import t as student

LEVEL = 0.05  # of all claims together


@dataclass(frozen=True)
class SeedVariance:
    """The variance of a run's mean that a seed brings, beside what it does to all variants alike.

    It is the residual of a two-way table, variants by seeds: every variant's runs tell of it.
    """

    variance: float
    freedom: int  # degrees of freedom; 0 = one seed or one variant, which tell nothing of it


@dataclass(frozen=True)
class Difference:
    """The mean of one variant less that of another."""

    mean: float
    error: float  # standard error, from scenes and seeds
    freedom: float  # degrees of freedom (Welch and Satterthwaite)

    @property
    def p(self) -> float:
        """The two-sided p by Student's t."""
        if not self.error:
            return float(self.mean == 0)
        return float(2 * student.sf(abs(self.mean) / self.error, self.freedom))

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """The interval that holds the difference with a chance of 1 - level."""
        half = float(student.ppf(1 - level / 2, self.freedom)) * self.error if self.error else 0.0
        return self.mean - half, self.mean + half


def seed_variance(means: np.ndarray) -> SeedVariance:
    """Compute the residual variance of a two-way table, variants by seeds.

    Args:
        means: (variants, seeds) of each run over all scenes.
    """
    variants, seeds = means.shape
    freedom = (variants - 1) * (seeds - 1)
    if not freedom:
        return SeedVariance(0.0, 0)
    left = means - means.mean(0, keepdims=True) - means.mean(1, keepdims=True) + means.mean()
    return SeedVariance(float((left**2).sum()) / freedom, freedom)


def difference(this: np.ndarray, other: np.ndarray, seeds: SeedVariance) -> Difference:
    """Compute the mean difference of two variants, paired over scenes, and its standard error.

    Args:
        this, other: (seeds, scenes) of the same seeds and scenes; the second is taken off.
        seeds: what a seed brings to a run's mean, pooled over variants.
    """
    pairs = (this.astype(np.float64) - other).mean(axis=0)
    parts = [(float(pairs.var(ddof=1)) / len(pairs), len(pairs) - 1)]
    if seeds.freedom:
        parts.append((2 * seeds.variance / len(this), seeds.freedom))
    variance = sum(part for part, _ in parts)
    lost = sum(part**2 / freedom for part, freedom in parts)
    freedom = variance**2 / lost if lost else float(len(pairs) - 1)
    return Difference(float(pairs.mean()), sqrt(variance), freedom)


@dataclass(frozen=True)
class Corrected:
    """A difference among several that are claimed together (Holm 1979)."""

    p: float  # adjusted
    low: float  # of the interval at the level that Holm's procedure has for it
    high: float

    @property
    def holds(self) -> bool:
        """Whether it is clear of 0."""
        return self.p < LEVEL


def holm(differences: Sequence[Difference]) -> list[Corrected]:
    """Correct for how many there are, in their order."""
    count = len(differences)
    order = sorted(range(count), key=lambda i: differences[i].p)
    found: dict[int, Corrected] = {}
    adjusted, standing = 0.0, 0
    for rank, i in enumerate(order):
        adjusted = max(adjusted, min(1.0, (count - rank) * differences[i].p))
        low, high = differences[i].interval(LEVEL / (count - min(rank, standing)))
        standing += adjusted < LEVEL
        found[i] = Corrected(adjusted, low, high)
    return [found[i] for i in range(count)]
