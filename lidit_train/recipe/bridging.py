"""The section of a recipe that trains a bridge."""

from __future__ import annotations

from dataclasses import dataclass

from lidit_core.bridge.config import RESIDUALS, SEEDED
from lidit_core.errors import check

from ..ranges import in_range, one_of


@dataclass(frozen=True)
class Through:
    """A frozen U-Net in which a bridge is to do what the recorded encoder does.

    Pictures are drawn from noise by what the encoder wrote, with guidance away from the empty
    prompt. At some points of each such trajectory the U-Net's prediction under the bridge's
    conditioning is compared with that under the encoder's, or its hidden state after some blocks.
    On captioned pictures it denoises these, and neither trajectories nor points are there.
    """

    base: str = ""  # the checkpoint, as adapter.base
    prediction: str = ""  # of the checkpoint, "eps" or "v"; "" = as the file says
    steps: int = 20  # of a trajectory
    points: int = 5  # of its steps, drawn for each prompt, at which it learns
    guidance: tuple[float, ...] = (1.0, 7.0)  # of a trajectory, drawn between these two
    blocks: int = 0  # after so many of the U-Net's its hidden state is compared, in place of its
    # prediction; 0 = the prediction

    def __post_init__(self) -> None:
        check(
            bool(self.base),
            "the recipe's bridge.through has no base; expected the checkpoint whose U-Net it is",
        )
        one_of("the prediction of bridge.through", self.prediction, ("", "eps", "v"))
        in_range(self, "bridge.through", "steps", "points", low=1)
        in_range(self, "bridge.through", "blocks", low=0)
        check(
            self.points <= self.steps,
            f"the recipe's bridge.through has points={self.points} and steps={self.steps}; "
            "expected no more points than steps",
        )
        check(
            len(self.guidance) == 2 and 1 <= self.guidance[0] <= self.guidance[1],
            f"the recipe's bridge.through has guidance={list(self.guidance)}; expected two "
            "numbers of 1 or more, the lower one first",
        )


@dataclass(frozen=True)
class BridgeOptions:
    """A bridge (lidit_core.bridge): LLMs that learn to write what a recording holds."""

    llms: tuple[str, ...] = ()  # names, model folders or .gguf files; all are read the same way.
    # () = those of the checkpoint, by their names
    checkpoint: str = (
        ""  # go on from this bridge, a file; what it reads and its sizes are the file's
    )
    through: Through | None = None  # a frozen U-Net; None = the conditioning itself is compared
    block: int = -3  # whose output is read
    template: str = "none"  # a preset, a file, or text with {prompt} in it
    token_budget: int = 256  # tokens of a prompt that each LLM reads
    width: int = 512  # of the refined tokens and the queries
    heads: int = 8  # of attention
    refiner_blocks: int = 2  # of each LLM's linguistic refiner
    collaborative_blocks: int = 1  # where there are several LLMs, or an encoder is added to
    blocks: int = 3  # of the resampler
    residual: str = "attention"  # or "mlp", token by token, which is what it has to beat
    base: bool = True  # ridge; false = the residual alone, for comparison
    overlap: bool = True  # attention by shared characters; false for comparison
    seeds: str = "pca"  # of the teacher's own table; "trained" and "none" for comparison
    add: str = ""  # a recording of the checkpoint's own encoder, to which it adds what that of
    # the source knows besides, or what pictures teach; "" = in its place
    held_out: float = 0.05  # share of the prompts that are measured and never learnt from

    def __post_init__(self) -> None:
        check(
            bool(self.llms or self.checkpoint),
            "the recipe's bridge has no llms; expected one or more, or a checkpoint",
        )
        one_of("the bridge's residual", self.residual, [r for r in RESIDUALS if r != "none"])
        one_of("the bridge's seeds", self.seeds, SEEDED)
        in_range(self, "bridge", "token_budget", "width", "heads", low=1)
        in_range(self, "bridge", "refiner_blocks", "collaborative_blocks", "blocks", low=0)
        check(
            0 < self.held_out <= 0.5,
            f"the recipe's bridge has held_out={self.held_out}; expected above 0 and 0.5 at most",
        )
