"""What a run keeps and tells as it goes: checkpoints, files to draw with, the log."""

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


@dataclass(frozen=True)
class Log:
    """What is written of a run as it goes, in log.jsonl and by trackers."""

    every: int = 10  # steps
    time_bins: int = 10  # of (0, 1], each with its own mean loss
    trackers: tuple[str, ...] = ("tensorboard",)  # or "wandb"; left out if not installed

    def __post_init__(self) -> None:
        in_range(self, "log", "every", "time_bins", low=1)
