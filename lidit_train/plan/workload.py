"""What a recipe puts before each process: tokens of a text and a picture, shares of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..data.schedule import held_out_count
from ..data.token_guess import TextTokens
from ..input_spec import InputSpec
from ..recipe import Compute, Recipe, Stage, Validation

FLOAT32 = 4  # bytes of a master weight, a gradient, a moment, an average


@dataclass(frozen=True)
class SampleTokens:
    """What one picture puts before the model."""

    tokens: int  # N, image tokens
    text: Mapping[int, TextTokens] = field(default_factory=dict)  # by branch that takes part

    @property
    def kept(self) -> int:
        """Text tokens that the image tokens read."""
        return sum(text.kept for text in self.text.values())


def image_tokens(grain: int, width: int, height: int) -> int:
    """The tokens of a picture; sides between two multiples of the grain count as the larger.

    Args:
        grain: pixels that the side of a token covers.
        width, height: in pixels.
    """
    return -(-width // grain) * -(-height // grain)


@dataclass(frozen=True)
class StageLoad:
    """One stage as a process sees it."""

    stage: Stage
    side: int  # of the square picture, pixels
    subsets: tuple[
        tuple[float, SampleTokens], ...
    ]  # shares that sum to 1, and what a picture brings
    share: int  # images of a step that one process trains on
    micro: int  # of those at once

    @property
    def micro_batches(self) -> int:
        return -(-self.share // self.micro)


def stage_loads(
    recipe: Recipe, spec: InputSpec, text: Mapping[int, TextTokens]
) -> tuple[StageLoad, ...]:
    """Compute what each stage puts before one process; pictures count as squares.

    Args:
        text: a text's tokens by branch.
    """
    compute, count = recipe.compute, recipe.hardware.count
    return tuple(_load(compute, count, spec, text, stage) for stage in recipe.stages)


def _load(compute: Compute, processes: int, spec: InputSpec, text, stage: Stage) -> StageLoad:
    side = stage.resolution or spec.native_size
    tokens = image_tokens(spec.grain, side, side)
    share = -(-stage.batch // processes)
    subsets = [(s.weight, s.branches) for s in stage.subsets] or [(1.0, tuple(text))]
    total = sum(weight for weight, _ in subsets)
    sizes = tuple(
        (weight / total, SampleTokens(tokens, {i: text[i] for i in branches}))
        for weight, branches in subsets
    )
    return StageLoad(stage, side, sizes, share, min(compute.micro_batch or share, share))


def branches_read(loads: tuple[StageLoad, ...]) -> frozenset[int]:
    """Branches that take part in some step."""
    return frozenset(i for load in loads for _, sizes in load.subsets for i in sizes.text)


def read_together(loads: tuple[StageLoad, ...]) -> bool:
    """Whether some step reads several branches at once, which the collaborative refiner fuses."""
    return any(len(sizes.text) > 1 for load in loads for _, sizes in load.subsets)


def validations(validation: Validation, steps: int) -> int:
    """How often a run of so many steps is validated."""
    return (steps // validation.every if validation.every else 0) + validation.at_start


def passes_over_one(validation: Validation, steps: int) -> int:
    """How often a held-out picture is measured in a run of so many steps."""
    return validations(validation, steps) * validation.times


def measured_samples(
    validation: Validation, steps: int, pictures: Sequence[int | None]
) -> int | None:
    """Passes over held-out pictures in a run of so many steps; None = not known.

    Args:
        pictures: of each source; None = not known before it is read.
    """
    if not validation.held_out:
        return 0
    known = [count for count in pictures if count is not None]
    if len(known) < len(pictures):
        return None
    held = sum(held_out_count(count, validation.held_out) for count in known)
    return passes_over_one(validation, steps) * held
