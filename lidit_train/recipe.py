"""A training recipe: one TOML file that says everything a run needs to be repeated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lidit_core.config import LiDiTConfig, read_record
from lidit_core.errors import LiDiTError
from lidit_core.presets import find_preset

OPTIMISERS = ("adamw", "muon")


@dataclass(frozen=True)
class Subset:
    """Branches that take part together in a step, and how often."""

    branches: tuple[int, ...]
    weight: float = 1.0  # relative to the stage's other subsets


@dataclass(frozen=True)
class Stage:
    """Some of the training at one picture size; the paper goes from small to large as well."""

    latents: str  # file in the data folder: a LatentSet
    images: int  # to train on
    batch: int  # images a step
    subsets: tuple[Subset, ...]
    shift: float | None = None  # of training times towards noise; None = the model's own

    def __post_init__(self) -> None:
        if not self.subsets or self.images < 1 or self.batch < 1:
            raise LiDiTError(
                f"stage {self.latents} has {self.images} images, batches of {self.batch} and "
                f"{len(self.subsets)} subsets of branches; expected 1 or more of each"
            )

    @property
    def steps(self) -> int:
        return -(-self.images // self.batch)


@dataclass(frozen=True)
class Content:
    """A second loss: a linear map of one block's image tokens must name what each patch shows.

    As representation alignment (Yu et al. 2024, arXiv 2410.06940) with labels that drawn scenes
    have for nothing; the map is not part of the model.
    """

    weight: float = 0.1  # of the cross-entropy beside the objective's loss
    block: int = 3  # the transformer block whose output is read
    classes: int = 65


@dataclass(frozen=True)
class Recipe:
    """How a LI-DiT was, or is to be, trained."""

    preset: str  # of lidit_core.presets
    stages: tuple[Stage, ...]
    seed: int = 0
    optimiser: str = "adamw"  # or "muon", for the blocks' matrices; AdamW for the rest
    learning_rate: float = 1e-3  # at the plateau
    betas: tuple[float, ...] = (0.9, 0.99)
    weight_decay: float = 0.01
    warmup: int = 200  # steps
    decay: float = 0.25  # share of all steps over which the rate falls to zero
    clip: float = 1.0  # of the gradient's norm
    ema: float = 0.998
    caption_dropout: float = 0.1  # share of samples that read the empty prompt instead
    text_zeroing: float = 0.01  # share of samples without any text token
    content: Content | None = None  # teach a block what each patch shows
    save_every: int = 200  # steps
    grid_every: int = 500  # steps

    def __post_init__(self) -> None:
        if not self.stages:
            raise LiDiTError("the recipe has no stages; expected one or more")
        if self.optimiser not in OPTIMISERS:
            raise LiDiTError(
                f"the recipe's optimiser is {self.optimiser!r}; expected {' or '.join(OPTIMISERS)}"
            )
        if len(self.betas) != 2:
            raise LiDiTError(f"the recipe has betas {self.betas}; expected two numbers")

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    @property
    def branches(self) -> tuple[int, ...]:
        """Every branch that some stage trains."""
        return tuple(
            sorted(
                {b for stage in self.stages for subset in stage.subsets for b in subset.branches}
            )
        )

    def stage_of(self, step: int) -> Stage:
        for stage in self.stages:
            if step < stage.steps:
                return stage
            step -= stage.steps
        return self.stages[-1]

    def config(self) -> LiDiTConfig:
        return find_preset(self.preset)


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe; an unknown field, or a wrong type, is one clear sentence."""
    try:
        import tomllib  # only training needs it
    except ImportError as error:
        raise LiDiTError("this Python reads no TOML; expected Python 3.11 or newer") from error
    try:
        data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise LiDiTError(f"recipe {path} cannot be read ({error}); give a TOML file") from error
    return read_record(Recipe, data, f"recipe {path}")
