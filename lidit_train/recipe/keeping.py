"""What a run keeps as it goes: checkpoints to go on from, files to draw with."""

from __future__ import annotations

from dataclasses import dataclass

from ..ranges import in_range, one_of

WEIGHTS = ("averaged", "plain", "none")


@dataclass(frozen=True)
class Checkpoints:
    """What is kept of a run, for going on and for drawing."""

    every: int = 500  # steps
    keep: int = 2  # newest ones; the last before the rate's decay stays beside them
    weights: str = "averaged"  # of the loadable file beside each, "plain" for the weights as they
    # are, "none" for no such file before the last step

    def __post_init__(self) -> None:
        in_range(self, "checkpoints", "every", "keep", low=1)
        one_of("the recipe's checkpoints' weights", self.weights, WEIGHTS)
