"""The step at which a run was best by its held-out pictures, and when it is time to end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass
class Best:
    """The lowest loss that was measured so far."""

    loss: float = math.inf
    step: int | None = None  # after which it was measured; None = nothing was yet
    since: int = 0  # measurements after it

    def see(self, step: int, loss: float) -> bool:
        """Take in a measurement, and tell whether it is the lowest; NaN never is."""
        if loss < self.loss:
            self.loss, self.step, self.since = loss, step, 0
            return True
        self.since += 1
        return False

    def is_over(self, patience: int) -> bool:
        """Whether so many measurements brought nothing; never for patience 0."""
        return 0 < patience <= self.since

    def state(self) -> dict[str, Any]:
        """The state as JSON, for a checkpoint."""
        loss = None if self.step is None else self.loss
        return {"loss": loss, "step": self.step, "since": self.since}

    @classmethod
    def from_state(cls, state: Mapping[str, Any] | None) -> Best:
        """Restore a checkpoint's state; without one, nothing was measured yet."""
        if not state:
            return cls()
        loss = math.inf if state["loss"] is None else state["loss"]
        return cls(loss, state["step"], state["since"])
