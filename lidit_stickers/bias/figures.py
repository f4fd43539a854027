"""The bias of each model, and how those of two models differ, with intervals over requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from lidit_eval.statistics import bootstrap

from ..many_facts import PAIRED
from .measuring import BiasMeasurements


@dataclass(frozen=True)
class Figure:
    """A mean over requests with its 95 % interval, by the bootstrap over requests."""

    mean: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether the interval is clear of 0."""
        return self.low > 0 or self.high < 0


def figure(values: np.ndarray) -> Figure:
    """Compute the mean of values over requests, and its interval by the bootstrap.

    Args:
        values: (requests,).
    """
    return Figure(float(values.mean()), *bootstrap(values.tolist()))


@dataclass(frozen=True)
class Bias:
    """What is lost of facts that come late; 0 = nothing. Positive: late is worse."""

    early: float  # share of numbers and colours that hold
    late: float
    score: Figure  # early less late
    error: Figure  # the mean squared error with the late words less that with the early
    first_last: Figure  # of pairs: the first place less the last, over both orders


@dataclass(frozen=True)
class Apart:
    """The difference of two models' biases: that of one less that of the other."""

    one: str
    other: str
    score: Figure
    error: Figure
    first_last: Figure


Runs = Sequence[BiasMeasurements]  # of the same kind of model, with other seeds


def score_bias(runs: Runs) -> np.ndarray:
    """What holds of early words less what holds of late ones, (requests,).

    It is the mean over facts, noises and runs.
    """
    return np.mean([(run.early - run.late).mean(axis=(1, 2)) for run in runs], axis=0)


def error_bias(runs: Runs) -> np.ndarray:
    """The error with late words less that with early, (requests,): the mean over runs."""
    return np.mean([run.errors[:, 1] - run.errors[:, 0] for run in runs], axis=0)


def first_last(runs: Runs) -> np.ndarray:
    """What holds of the first pair less that of the last, (requests,), over both orders.

    As each request is asked for in both orders, what is easy or hard about a kind cancels.
    """
    return np.mean([_ends(each) for run in runs for each in (run.pairs, run.turned)], axis=0)


def _ends(held: np.ndarray) -> np.ndarray:
    by_request = held.mean(axis=1)  # (requests, 4)
    last = (~np.isnan(by_request)).sum(axis=1) - 1
    return by_request[:, 0] - by_request[np.arange(len(last)), last]


def biases(found: Mapping[str, Runs]) -> dict[str, Bias]:
    """The bias of each model by name."""
    return {name: _bias(runs) for name, runs in found.items()}


def _bias(runs: Runs) -> Bias:
    early, late = (np.mean([getattr(r, n) for r in runs]) for n in ("early", "late"))
    return Bias(float(early), float(late), *_figures(runs))


def _figures(runs: Runs) -> list[Figure]:
    return [figure(of(runs)) for of in (score_bias, error_bias, first_last)]


def apart(found: Mapping[str, Runs]) -> list[Apart]:
    """Every two models, in their order."""
    return [
        Apart(
            one,
            other,
            *(
                figure(of(found[one]) - of(found[other]))
                for of in (score_bias, error_bias, first_last)
            ),
        )
        for one, other in combinations(found, 2)
    ]


def by_place(runs: Runs, pairs: int) -> list[Figure]:
    """What holds at each place of so many pairs, over both orders."""
    held = np.mean([(run.pairs + run.turned) / 2 for run in runs], axis=0).mean(axis=1)
    chosen = held[(~np.isnan(held)).sum(axis=1) == pairs]
    return [figure(chosen[:, place]) for place in range(pairs)] if len(chosen) else []


def curves(found: Mapping[str, Runs]) -> dict[str, dict[int, list[Figure]]]:
    """What holds at each place, by model and number of pairs."""
    return {name: {n: by_place(runs, n) for n in PAIRED} for name, runs in found.items()}
