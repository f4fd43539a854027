"""The state of a small run in one file, and what a lengthened run goes back to in another."""

from __future__ import annotations

from pathlib import Path

import torch

from lidit_core.errors import LiDiTError
from lidit_core.io.atomic import replacing

from .checkpoints import tell_longer
from .learning_rate import decay_factor, decay_start

NEWEST, BEFORE_DECAY = "state.pt", "before-decay.pt"  # in the run's folder


class StateFiles:
    """A run's newest state, and the one from just before its rate decays.

    Args:
        total: steps of the whole run.
        decay: share of them over which the rate falls.
        schedule: in which it falls, see `decay_factor`.
    """

    def __init__(self, folder: Path, total: int, decay: float, schedule: str = "linear") -> None:
        self.newest, self.before = folder / NEWEST, folder / BEFORE_DECAY
        self.total, self.decay, self.schedule = total, decay, schedule

    def save(self, state: dict) -> None:
        """Keep a state, which has its number of steps as "step", under the names that it is due."""
        state = {**state, "decay_factor": self._factor(state["step"])}
        save_atomically(state, self.newest)
        if state["step"] == decay_start(self.total, self.decay):
            save_atomically(state, self.before)

    def is_due(self, step: int, every: int) -> bool:
        """Whether the state after so many steps is to be saved, at least every so many."""
        return step % every == 0 or step in (self.total, decay_start(self.total, self.decay))

    def load(self) -> dict | None:
        """The newest state, or the one from before a shorter run's decay where it lies in that."""
        state = load_state(self.newest)
        fallen = 1.0 if state is None else state.get("decay_factor", 1.0)
        if state is None or fallen >= (rises := self._factor(state["step"])):
            return state
        before = load_state(self.before)
        tell_longer(state["step"], fallen, rises, None if before is None else before["step"])
        return before or state

    def _factor(self, step: int) -> float:
        """What the decay leaves of the rate at the last of so many steps."""
        return decay_factor(step - 1, self.total, self.decay, self.schedule)


def save_atomically(state: dict, path: Path) -> None:
    """Write beside, then rename: the old file stays whole until the new one is."""
    with replacing(path) as beside:
        torch.save(state, beside)


def load_state(path: Path) -> dict | None:
    """The saved state, or None where a run has not begun."""
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise LiDiTError(
            f"{path} is no training state that can be read ({error}); expected one that this "
            "trainer wrote; move it away to start anew"
        ) from error
