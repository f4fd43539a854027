"""What is drawn and measured as training goes on."""

from __future__ import annotations

from dataclasses import dataclass

from lidit_core.errors import check

from ..ranges import in_range


@dataclass(frozen=True)
class Validation:
    """The same prompts from the same noise, and the loss of pictures that are held out.

    Both are of the averaged weights. The loss is that of `held_out` of every source's pictures,
    which are never trained on, each with its caption from the same noise at the same times.
    """

    every: int = 1000  # steps; 0 = never
    at_start: bool = False  # at step 0 too
    prompts: tuple[str, ...] = ()
    branches: tuple[int, ...] = ()  # that read them; () = all
    steps: int = 0  # of sampling; 0 = the model's
    guidance: float = 0.0  # 0 = the model's
    seed: int = 0  # of the grid's noise, and of the held-out pictures'
    held_out: float = 0.0  # share of each source's pictures, one at least; 0 = none
    times: int = 4  # at which each is measured, spread evenly over (0, 1]
    patience: int = 0  # measurements that are no lower, after which the run ends; 0 = it does not

    def __post_init__(self) -> None:
        in_range(self, "validation", "every", "patience", low=0)
        in_range(self, "validation", "held_out", low=0, high=0.9)
        in_range(self, "validation", "times", low=1, high=1000)
        check(
            bool(self.held_out) or not self.patience,
            f"the recipe's validation has patience={self.patience}, which counts measurements of "
            "held-out pictures; set held_out to a share of them, or leave patience out",
        )

    def check_measured(self, steps: int) -> None:
        """Refuse to hold pictures out of a run of so many steps that never measures them."""
        check(
            not self.held_out or 0 < self.every <= steps,
            f"the recipe's validation holds pictures out and measures them every {self.every} "
            f"steps of {steps}; set validation.every to {steps} or fewer, and above 0",
        )
