"""What a recipe puts before each process: tokens of a text and a picture, shares of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lidit_core.model.config import LiDiTConfig

from ..data.token_guess import TextTokens
from ..recipe import Recipe, Stage
from .flops import Sizes, image_tokens


@dataclass(frozen=True)
class StageLoad:
    """One stage as a process sees it."""

    stage: Stage
    side: int  # of the square picture, pixels
    subsets: tuple[tuple[float, Sizes], ...]  # shares that sum to 1, and what a picture brings
    share: int  # images of a step that one process trains on
    micro: int  # of those at once

    @property
    def micro_batches(self) -> int:
        return -(-self.share // self.micro)


def stage_loads(
    recipe: Recipe, config: LiDiTConfig, text: Mapping[int, TextTokens]
) -> tuple[StageLoad, ...]:
    """Args: text: a text's tokens by branch."""
    return tuple(_load(recipe, config, text, stage) for stage in recipe.stages)


def _load(recipe: Recipe, config: LiDiTConfig, text, stage: Stage) -> StageLoad:
    side = stage.resolution or config.native_size
    tokens = image_tokens(config, side, side)
    share = -(-stage.batch // recipe.hardware.count)
    subsets = [(s.weight, s.branches) for s in stage.subsets] or [(1.0, tuple(text))]
    total = sum(weight for weight, _ in subsets)
    sizes = tuple(
        (weight / total, Sizes(tokens, {i: text[i] for i in branches}))
        for weight, branches in subsets
    )
    return StageLoad(stage, side, sizes, share, min(recipe.compute.micro_batch or share, share))


def branches_read(loads: tuple[StageLoad, ...]) -> frozenset[int]:
    """Branches that take part in some step."""
    return frozenset(i for load in loads for _, sizes in load.subsets for i in sizes.text)


def read_together(loads: tuple[StageLoad, ...]) -> bool:
    """Whether some step reads several branches at once, which the collaborative refiner fuses."""
    return any(len(sizes.text) > 1 for load in loads for _, sizes in load.subsets)
