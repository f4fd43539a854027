"""The times that training draws, and those that a sampling run goes through.

Time is one number in [0, 1]: 1 is noise, 0 the picture. Training draws times above 0 and a sampling
run ends at 0, where the model is not asked.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import LiDiTError
from .objectives import STEPS


@dataclass(frozen=True)
class Focus:
    """A range of times from which a share of the training draws its own, uniformly."""

    low: float  # times lie above it
    high: float  # and up to it
    share: float = 0.5  # of the samples

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise LiDiTError(
                f"the focus of training times has low={self.low} and high={self.high}; "
                "expected times with 0 <= low < high <= 1, where 1 is noise"
            )
        if not 0 <= self.share <= 1:
            raise LiDiTError(f"the focus of training times has share={self.share}; expected 0 to 1")


def sample_time(
    prediction: str,
    count: int,
    shift: float,
    generator: torch.Generator,
    focus: Focus | None = None,
) -> Tensor:
    """Training times (count,): logit-normal for flow, uniform over the steps for eps and v.

    Then shifted; those of eps and v to the next step of the schedule. A focus replaces a share of
    them, and leaves the others as they would be without it.
    """
    if prediction == "flow":
        time = shift_time(torch.randn(count, generator=generator).sigmoid(), shift)
    else:
        time = (torch.randint(STEPS, (count,), generator=generator) + 1) / STEPS
        time = time if shift == 1 else _next_step(shift_time(time, shift))
    return time if focus is None else _focused(prediction, time, focus, generator)


def _focused(prediction: str, time: Tensor, focus: Focus, generator: torch.Generator) -> Tensor:
    """Times (count,) of which a share is drawn anew in (low, high]."""
    chosen, place = torch.rand(2, len(time), generator=generator, dtype=torch.float64)
    drawn = focus.low + (focus.high - focus.low) * (1 - place)
    drawn = drawn if prediction == "flow" else _next_step(drawn)
    return torch.where(chosen < focus.share, drawn.to(time), time)


def _next_step(time: Tensor) -> Tensor:
    """Times of the DDPM schedule, at or after the given ones."""
    return (time * STEPS).ceil().clamp(1, STEPS) / STEPS


def even_times(prediction: str, count: int) -> Tensor:
    """The middles of so many equal parts of (0, 1], (count,); for eps and v steps of DDPM."""
    times = (torch.arange(count) + 0.5) / count
    return times if prediction == "flow" else _next_step(times)


def shift_time(time: Tensor, shift: float) -> Tensor:
    """SD3's timestep shift: more of the steps, or of the training, at high noise."""
    return shift * time / (1 + (shift - 1) * time)


def sampling_times(prediction: str, steps: int, shift: float) -> Tensor:
    """Times of a sampling run, (steps + 1,), from 1 down to 0."""
    times = torch.linspace(1, 0, steps + 1)
    return shift_time(times, shift) if prediction == "flow" else times
