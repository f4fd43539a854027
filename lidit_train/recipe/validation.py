"""What is drawn and measured as training goes on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from lidit_core.errors import check
from lidit_core.llmdiff.config import MODES

from ..ranges import in_range, one_of

BASE_ALONE = "base"  # the checkpoint without its adapter


@dataclass(frozen=True)
class Prompt:
    """A prompt that is drawn in its own way; a text alone is drawn as the others are."""

    text: str  # of the prompt
    size: tuple[int, ...] = ()  # width and height, pixels; () = the model's native square
    seed: int | None = None  # of its noise; None = the validation's seed and the prompt's place
    negative: str = ""  # what guidance leads away from

    def __post_init__(self) -> None:
        check(
            len(self.size) in (0, 2) and all(side > 0 for side in self.size),
            f"the validation's prompt {self.text!r} has size {list(self.size)}; expected a width "
            "and a height in pixels, or leave it out",
        )
        check(
            self.seed is None or 0 <= self.seed < 1 << 63,
            f"the validation's prompt {self.text!r} has seed {self.seed}; expected 0 to 2^63 - 1",
        )


@dataclass(frozen=True)
class Validation:
    """The same prompts from the same noise, and the loss of pictures that are held out.

    Both are of the averaged weights. The loss is that of `held_out` of every source's pictures,
    which are never trained on, each with its caption from the same noise at the same times.
    """

    every: int = 1000  # steps; 0 = never
    at_start: bool = False  # at step 0 too
    prompts: tuple[Prompt | str, ...] = ()  # that are drawn; () = none
    modes: tuple[str, ...] = ()  # of an adapter, side by side: "base", "replace", "add"; () = the
    # first that is trained. base is the checkpoint without it.
    branches: tuple[int, ...] = ()  # that read them; () = all
    steps: int = 0  # of sampling; 0 = the model's
    guidance: float = 0.0  # 0 = the model's
    seed: int = 0  # of the grid's noise, and of the held-out pictures'
    held_out: float = 0.0  # share of each source's pictures, one at least; 0 = none
    times: int = 4  # at which each is measured, spread evenly over (0, 1]
    patience: int = 0  # measurements that are no lower, after which the run ends; 0 = it does not

    def __post_init__(self) -> None:
        for mode in self.modes:
            one_of("a mode of the validation", mode, (BASE_ALONE, *MODES))
        in_range(self, "validation", "every", "patience", low=0)
        in_range(self, "validation", "held_out", low=0, high=0.9)
        in_range(self, "validation", "times", low=1, high=1000)

    @property
    def drawn(self) -> tuple[Prompt, ...]:
        """Every prompt with its size, seed and negative prompt."""
        return tuple(p if isinstance(p, Prompt) else Prompt(p) for p in self.prompts)

    @property
    def texts(self) -> list[str]:
        """Every text that LLMs read for the grid, negative prompts last."""
        drawn = self.drawn
        return [*(p.text for p in drawn), *(p.negative for p in drawn if p.negative)]

    def sizes(self, native: int) -> dict[tuple[int, int], int]:
        """How many prompts are drawn at each width and height, pixels."""
        sizes = [(p.size[0], p.size[1]) if p.size else (native, native) for p in self.drawn]
        return dict(Counter(sizes))

    def check_sizes(self, grain: int) -> None:
        """Refuse a size that the model cannot draw; its sides are multiples of ``grain``."""
        for p in self.drawn:
            check(
                all(side % grain == 0 for side in p.size),
                f"the validation's prompt {p.text!r} has size {list(p.size)}; expected multiples "
                f"of {grain} pixels",
            )

    def check_measured(self, steps: int, measures: bool) -> None:
        """Refuse to hold pictures out of a run of so many steps that never measures them.

        Args:
            measures: it measures prompts in any case, as a bridge does through a U-Net.
        """
        check(
            bool(self.held_out) or measures or not self.patience,
            f"the recipe's validation has patience={self.patience}, which counts measurements of "
            "held-out pictures; set held_out to a share of them, or leave patience out",
        )
        check(
            bool(self.held_out) or not self.patience or 0 < self.every <= steps,
            f"the recipe's validation has patience={self.patience} and measures every {self.every} "
            f"steps of {steps}; set validation.every to {steps} or fewer, and above 0",
        )
        check(
            not self.held_out or 0 < self.every <= steps,
            f"the recipe's validation holds pictures out and measures them every {self.every} "
            f"steps of {steps}; set validation.every to {steps} or fewer, and above 0",
        )
