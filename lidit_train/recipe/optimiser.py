"""What steps the weights, and how their average is made."""

from __future__ import annotations

from dataclasses import dataclass

from lidit_core.errors import check

from ..ranges import in_range, one_of

UNDIVIDED = ("adamw8bit", "prodigy", "schedulefree")  # whose packages step whole weights alone
OPTIMISERS = ("adamw", "muon", *UNDIVIDED)
SCHEDULES = ("linear", "cosine")  # of the learning rate's decay
FACTOR = (0.1, 10.0)  # of learning_rate for prodigy, which finds the rate itself


@dataclass(frozen=True)
class Optimiser:
    """How weights follow their gradients, and how their average follows them."""

    name: str = "adamw"  # or "muon", for the blocks' matrices, with AdamW for the rest; or of a
    # package of its own "adamw8bit" (bitsandbytes), "prodigy" (prodigyopt), "schedulefree"
    learning_rate: float = 1e-4  # at the plateau; for prodigy a factor on the rate that it finds
    betas: tuple[float, ...] = (0.9, 0.99)  # decays of the mean and the square
    weight_decay: float = 0.01  # of matrices
    warmup: int = 100  # steps
    decay: float = 0.25  # share of all steps over which the rate falls to zero
    schedule: str = "linear"  # in which it falls, or "cosine"
    clip: float = 1.0  # of the gradient's norm; 0 = none
    ema: float = 0.998  # decay of the weights' exponential moving average
    bad_steps: int = 20  # in a row whose gradient is no number, before the run gives up

    def __post_init__(self) -> None:
        one_of("the recipe's optimiser", self.name, OPTIMISERS)
        one_of("the recipe's optimiser.schedule", self.schedule, SCHEDULES)
        check(
            len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas),
            f"the recipe's optimiser has betas {list(self.betas)}; expected two numbers below 1",
        )
        in_range(self, "optimiser", "learning_rate", "weight_decay", "warmup", "clip", low=0)
        in_range(self, "optimiser", "decay", "ema", low=0, high=1)
        in_range(self, "optimiser", "bad_steps", low=1)
        if self.name == "prodigy":
            low, high = FACTOR
            check(
                low <= self.learning_rate <= high,
                f"the recipe's optimiser is prodigy, which finds the rate itself, and "
                f"learning_rate={self.learning_rate:g} is a factor on it; expected {low:g} to "
                f"{high:g}: set optimiser.learning_rate=1",
            )
        if self.name == "schedulefree":
            check(
                self.decay == 0 == self.ema and self.betas[0] > 0,
                "the recipe's optimiser is schedulefree, whose rate never falls and which averages "
                f"for itself, and it has decay={self.decay:g}, ema={self.ema:g} and betas "
                f"{list(self.betas)}; expected decay and ema 0 and the first of the betas above 0: "
                "set optimiser.decay=0 and optimiser.ema=0",
            )
