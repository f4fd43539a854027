"""The linear base in closed form, from a pass over what the teacher and the LLMs make of prompts.

Two passes: of `Statistics`, which say what is standard and which rows never vary, and of `Sums`,
from which the ridge is solved. Of rows that are no text each kind of place has a constant of its
own, and the ridge is on what is left. How much is shrunk is chosen by prompts that are held out.

Shapes: N rows, X the LLMs' widths together, C the teacher's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import check

FLOOR = 0.05  # of a tap's median deviation, below which no number's deviation goes
STILL = 1e-3  # relative deviation over prompts below which a row is a constant
SEEN = 8  # rows below which nothing is known of whether they vary
SHRINKING = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of the states' mean variance
SHRUNK = 4.0  # rows' worth by which a constant that is seldom seen is drawn to 0


def _check_finite(what: str, *rows: Tensor) -> None:
    strange = sum(int((~values.isfinite()).sum()) for values in rows)
    check(
        not strange,
        f"{what} holds {strange} numbers that are not finite; expected finite ones: record the "
        "text encoder anew in bfloat16 or float32, or delete the run's cache, so that the LLMs "
        "read anew",
    )


class Statistics:
    """Means and deviations, of all rows together and of each group of rows by itself."""

    def __init__(self, width: int, groups: int) -> None:
        self.count = torch.zeros(groups, dtype=torch.float64)
        self.sum = torch.zeros(groups, width, dtype=torch.float64)
        self.square = torch.zeros(groups, width, dtype=torch.float64)

    def add(self, values: Tensor, groups: Tensor) -> None:
        """Add rows to the sums that means and deviations are computed from.

        Args:
            values: (N, width).
            groups: the group of each row, (N,) int64.
        Raises:
            LiDiTError: some number is not finite.
        """
        _check_finite("what means and deviations are computed from", values)
        values = values.double()
        self.count.index_add_(0, groups, torch.ones_like(groups, dtype=torch.float64))
        self.sum.index_add_(0, groups, values)
        self.square.index_add_(0, groups, values.square())

    @property
    def mean(self) -> Tensor:
        return self.sum.sum(0) / self.count.sum().clamp(min=1)

    @property
    def means(self) -> Tensor:
        """The mean of each group, (groups, width)."""
        return self.sum / self.count.clamp(min=1)[:, None]

    def deviation(self, groups: Tensor) -> Tensor:
        """The deviation of some groups' rows together, (width,)."""
        count = self.count[groups].sum().clamp(min=1)
        mean = self.sum[groups].sum(0) / count
        return (self.square[groups].sum(0) / count - mean.square()).clamp(min=0).sqrt()

    def still(self) -> Tensor:
        """Whether the rows of each group are known not to vary, (groups,) bool."""
        count = self.count.clamp(min=1)[:, None]
        size = (self.square / count).mean(1)
        varying = (self.square / count - self.means.square()).clamp(min=0).mean(1)
        return (self.count >= SEEN) & (varying <= STILL**2 * size)


def floored(deviation: Tensor, taps: Sequence[int] = ()) -> Tensor:
    """Deviations (C,) of at least `FLOOR` of their tap's median; of a tap that never varies 1.

    The median is of numbers that vary: zeros with which an encoder fills its rows up are none.

    Args:
        taps: widths of parts, whose sum is C; () = one.
    """
    parts = deviation.split(list(taps) or [len(deviation)])
    least = [(FLOOR * _median(part[part > 0])).expand(len(part)) for part in parts]
    raised = torch.maximum(deviation, torch.cat(least))
    return raised.where(raised > 0, 1.0)


def _median(values: Tensor) -> Tensor:
    return values.median() if len(values) else values.new_zeros(())


@dataclass(frozen=True, eq=False)
class Solved:
    """A ridge: the map (C, X), and each group's constant (groups, C)."""

    weight: Tensor
    constants: Tensor


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64)


class Sums:
    """Products of entered states and standardised rows, centred within groups."""

    def __init__(self, read: int, width: int, groups: int) -> None:
        self.count, self.yy = _zeros(groups), _zeros()
        self.x, self.y = _zeros(groups, read), _zeros(groups, width)
        self.xx, self.xy = _zeros(read, read), _zeros(read, width)

    def add(self, x: Tensor, y: Tensor, groups: Tensor) -> None:
        """Add rows and their products to the sums that the ridge is solved from.

        Args:
            x: the LLMs' entered states (N, X).
            y: the teacher's standardised rows (N, C).
            groups: the group of each row, (N,) int64.
        Raises:
            LiDiTError: some number is not finite.
        """
        _check_finite("what a ridge is solved from", x, y)
        self.count.index_add_(0, groups, torch.ones_like(groups, dtype=torch.float64))
        self.x.index_add_(0, groups, x.double())
        self.y.index_add_(0, groups, y.double())
        self.xx += (x.T @ x).double()
        self.xy += (x.T @ y).double()
        self.yy += y.double().square().sum()

    def within(self) -> tuple[Tensor, Tensor, Tensor]:
        """Sums of products of what is left when each group's mean is taken off."""
        weights = self.count.clamp(min=1).reciprocal()[:, None]
        xx = self.xx - self.x.T @ (self.x * weights)
        xy = self.xy - self.x.T @ (self.y * weights)
        return xx, xy, self.yy - (self.y.square() * weights).sum()

    def error(self, weight: Tensor) -> float:
        """The squared error of a map (C, X) on what is left."""
        xx, xy, yy = self.within()
        return float(yy - 2 * (weight.T * xy).sum() + ((weight @ xx) * weight).sum())


def solve(sums: Sums, held_out: Sums) -> Solved:
    """The ridge that does best on what is held out."""
    maps = [_map(sums, shrinking) for shrinking in SHRINKING]
    weight = min(maps, key=held_out.error) if held_out.count.sum() else maps[2]
    total = sums.y - sums.x @ weight.T
    return Solved(weight.float(), (total / (sums.count + SHRUNK)[:, None]).float())


def _map(sums: Sums, shrinking: float) -> Tensor:
    xx, xy, _ = sums.within()
    count = len(xx)
    added = shrinking * xx.diagonal().mean().clamp(min=1e-12) * torch.eye(count, dtype=xx.dtype)
    return torch.linalg.solve(xx + added, xy).T
