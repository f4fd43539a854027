"""A linear probe: ridge regression from a prompt's mean state to what it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lidit_eval.statistics import wilson

from ..scenes.grammar import Caption
from .facts import Fact

STRENGTHS = tuple(10.0**power for power in range(-1, 6))
TRIED = 5  # one in so many captions of training chooses the strength


@dataclass(frozen=True)
class Share:
    """How many of the captions that say a fact are read right."""

    right: int
    count: int

    @property
    def mean(self) -> float:
        return self.right / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's interval of 95 %."""
        return wilson(self.right, self.count)


def fitted(features: Tensor, targets: Tensor, strength: float) -> Tensor:
    """Weights (D, K) of a ridge regression from features (N, D) to targets (N, K)."""
    normal = features.T @ features
    normal.diagonal().add_(strength)
    return torch.linalg.solve(normal, features.T @ targets)


class Probe:
    """A probe for one fact, fitted on captions of training alone, which choose its strength too."""

    def __init__(self, fact: Fact, captions: Sequence[Caption], features: Tensor) -> None:
        self.fact = fact
        said, targets = _said(fact, captions)
        x = features[said].double()
        self.mean, self.deviation = x.mean(0), x.std(0).clamp_min(1e-6)
        x, self.level = self._normal(features[said]), targets.mean(0)
        tried = torch.arange(len(x)) % TRIED == 0
        kept = x[~tried], targets[~tried] - self.level
        by_strength = {
            strength: self._right(x[tried] @ fitted(*kept, strength), targets[tried])
            for strength in STRENGTHS
        }
        self.strength = max(STRENGTHS, key=lambda strength: by_strength[strength])
        self.weights = fitted(x, targets - self.level, self.strength)

    def share(self, captions: Sequence[Caption], features: Tensor) -> Share | None:
        """The share of other captions that it gets right; None where none says the fact."""
        said, targets = _said(self.fact, captions)
        if not said:
            return None
        scores = self._normal(features[said]) @ self.weights
        return Share(self._right(scores, targets), len(said))

    def _normal(self, features: Tensor) -> Tensor:
        return (features.double() - self.mean) / self.deviation

    def _right(self, scores: Tensor, targets: Tensor) -> int:
        return sum(map(self.fact.right, scores + self.level, targets))


def _said(fact: Fact, captions: Sequence[Caption]) -> tuple[list[int], Tensor]:
    found = [(row, fact.target(caption)) for row, caption in enumerate(captions)]
    told = [(row, target) for row, target in found if target is not None]
    targets = torch.stack([t for _, t in told]).double() if told else torch.zeros(0, 0)
    return [row for row, _ in told], targets
