"""What chance decides of the trajectories on which a bridge learns through a U-Net.

It is drawn from a generator of seed, step and row alone, so that nothing of a trajectory is kept
from one step to the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ....recipe import Through

CHANCE = 3  # beside seed, step and row: other numbers are drawn of pictures


@dataclass(frozen=True, eq=False)
class Trajectories:
    """Ways from noise to a picture, one a prompt."""

    noise: Tensor  # (B, C, h, w), where each begins
    guidance: Tensor  # (B,)
    times: Tensor  # (B, T) of its steps, from 1 down
    points: Tensor  # (B, P) int64: which of the steps are looked at, in order

    @property
    def learnt(self) -> Tensor:
        """The times that are looked at, (B, P)."""
        return self.times.gather(1, self.points)

    def to(self, device) -> Trajectories:
        return Trajectories(*(getattr(self, f.name).to(device) for f in fields(self)))

    def __getitem__(self, rows: slice) -> Trajectories:
        return Trajectories(*(getattr(self, f.name)[rows] for f in fields(self)))


def joined(several: Sequence[Trajectories]) -> Trajectories:
    """The trajectories of several prompts as one batch."""
    columns = ([getattr(each, f.name) for each in several] for f in fields(Trajectories))
    return Trajectories(*(torch.cat(column) for column in columns))


def drawn(options: Through, shape: Sequence[int], generator: torch.Generator) -> Trajectories:
    """One trajectory of latents (C, h, w).

    Its steps lie as a sampler's do, but for a part of a step by which all after the first are
    moved, so that no time goes unlearnt.
    """
    moved, scale = torch.rand(2, generator=generator).tolist()
    noise = torch.randn(1, *shape, generator=generator)
    points = torch.randperm(options.steps, generator=generator)[: options.points].sort().values
    return _trajectory(options, noise, scale, points, moved)


def even(
    options: Through, shape: Sequence[int], points: int, generator: torch.Generator
) -> Trajectories:
    """One trajectory as a sampler goes, with so many points spread evenly, to be measured at."""
    scale = torch.rand((), generator=generator).item()
    noise = torch.randn(1, *shape, generator=generator)
    places = ((torch.arange(points) + 0.5) * options.steps / points).long()
    return _trajectory(options, noise, scale, places, 0.0)


def _trajectory(
    options: Through, noise: Tensor, scale: float, points: Tensor, moved: float
) -> Trajectories:
    """Make one trajectory of what chance has decided.

    Args:
        noise: (1, C, h, w).
        scale: of the guidance, in [0, 1] from the recipe's lowest to its highest.
        points: (P,) int64, steps in order.
        moved: the part of a step, in [0, 1), by which all times after the first lie higher.
    """
    low, high = options.guidance
    steps = torch.arange(options.steps, dtype=torch.float32)
    times = 1 - (steps - moved).clamp(min=0) / options.steps
    guidance = torch.tensor([low + scale * (high - low)])
    return Trajectories(noise, guidance, times[None], points[None])
