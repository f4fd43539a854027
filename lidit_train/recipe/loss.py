"""How errors of a prediction become the loss that is learnt from."""

from __future__ import annotations

from dataclasses import dataclass

from lidit_core.errors import check

from ..ranges import in_range, one_of

WEIGHTINGS = ("none", "min-snr", "debiased")
ERRORS = ("squared", "huber", "pseudo-huber")
DELTA_SCHEDULES = ("constant", "snr", "exponential")


@dataclass(frozen=True)
class Loss:
    """The loss of a sample by its noise, and of a number by its error.

    With the signal-to-noise ratio SNR = (alpha / sigma)^2 of a time (lidit_core.diffusion) and W
    the weight of the squared error of the picture that a prediction implies, the squared error on
    the objective's own target is weighted by W (sigma / alpha)^2 for eps, and by W sigma^2 for v
    and flow, which is the same loss.

    min-snr: W = min(SNR, gamma) (Hang et al. 2023, arXiv 2303.09556).
    debiased: W = sqrt(SNR), that is 1 / sqrt(SNR) for eps (Yu et al. 2023, arXiv 2310.08442).
    """

    weighting: str = "none"  # of samples by their noise, or "min-snr", "debiased"
    gamma: float = 5.0  # of min-snr
    error: str = "squared"  # of every number, or "huber", "pseudo-huber"
    delta: float = 0.1  # of these: error beyond which they grow in a straight line; small as above
    delta_schedule: str = "constant"  # over times, or "snr", "exponential": delta at noise, 1 at
    # the picture (Khrapov et al. 2024, arXiv 2403.16728)

    def __post_init__(self) -> None:
        one_of("the recipe's loss.weighting", self.weighting, WEIGHTINGS)
        one_of("the recipe's loss.error", self.error, ERRORS)
        one_of("the recipe's loss.delta_schedule", self.delta_schedule, DELTA_SCHEDULES)
        in_range(self, "loss", "gamma", "delta", low=1e-6, high=1e6)
        for name, of, is_read in (
            ("gamma", "weighting: min-snr", self.weighting == "min-snr"),
            ("delta", "error: huber and pseudo-huber", self.error != "squared"),
            ("delta_schedule", "error: huber and pseudo-huber", self.error != "squared"),
        ):
            value = getattr(self, name)
            check(
                is_read or value == type(self).__dataclass_fields__[name].default,
                f"the recipe's loss has {name}={value}, which is of {of}; set that, or leave it "
                "out",
            )
        check(
            self.delta_schedule == "constant" or self.delta <= 1,
            f"the recipe's loss has delta={self.delta:g} and delta_schedule={self.delta_schedule}, "
            "which goes from delta at noise to 1 at the picture; expected delta of 1 at most",
        )


SQUARED = Loss()  # what is learnt from where a recipe has no other loss
