"""Batches of recorded prompts with a trajectory for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch

from ....data.schedule import StepBatch, seeded
from ....recipe import Recipe
from ..batches import BridgeBatch, BridgeLoader, PreparedBridge
from .trajectories import CHANCE, Trajectories, drawn, joined


@dataclass(frozen=True, eq=False)
class ThroughBatch(BridgeBatch):
    """Prompts of one step; the times of the points that are looked at are its times."""

    trajectories: Trajectories | None = None  # which every batch has

    @staticmethod
    def of(batch: BridgeBatch, each: Sequence[Trajectories]) -> ThroughBatch:
        """Join a batch of prompts with their trajectories.

        Args:
            each: one trajectory a prompt, in the batch's order.
        """
        own = {f.name: getattr(batch, f.name) for f in fields(batch)}
        made = joined(each)
        return ThroughBatch(**{**own, "time": made.learnt}, trajectories=made)

    def part(self, rows: slice) -> ThroughBatch:
        assert self.trajectories is not None
        return replace(super().part(rows), trajectories=self.trajectories[rows])

    def to(self, device) -> ThroughBatch:
        assert self.trajectories is not None
        return replace(super().to(device), trajectories=self.trajectories.to(device))


class ThroughLoader(BridgeLoader):
    """Iterates over batches with trajectories.

    Args:
        shapes: of latents (C, h, w), by stage.
    """

    def __init__(
        self,
        ready: PreparedBridge,
        share: Callable[[int], slice],
        device: torch.device | str,
        recipe: Recipe,
        shapes: Sequence[Sequence[int]],
    ) -> None:
        super().__init__(ready, share, device)
        assert recipe.bridge is not None and recipe.bridge.through is not None
        self.options, self.seed, self.shapes = recipe.bridge.through, recipe.seed, shapes

    def batch(self, plan: StepBatch, numbers: range) -> ThroughBatch:
        chances = [seeded(self.seed, plan.step, n, CHANCE) for n in numbers]
        each = [drawn(self.options, self.shapes[plan.stage], g) for g in chances]
        return ThroughBatch.of(super().batch(plan, numbers), each)
