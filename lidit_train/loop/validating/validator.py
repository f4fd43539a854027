"""Draws a run's grid and measures its held-out pictures at the steps that the recipe says."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from torch import Tensor

from ...learner import Learner
from ...recipe import Validation
from ..ema import EMA
from ..journal import Journal
from ..stopping import Interrupted
from .best import Best
from .held_out_loss import LOSS

log = logging.getLogger(__name__)


class HeldOutMeasure(Protocol):
    """Measures a learner on what it never learns from."""

    def told(self) -> str:
        """What is measured, for the log."""
        ...

    def identity(self) -> str:
        """The hash of what is measured, 16 letters; losses of another hash do not compare."""
        ...

    def measure(self, learner: Learner) -> dict[str, float]:
        """The held-out loss under its name, and numbers beside it; every process must call."""
        ...


class Validator:
    """Validates a run; every process has one, and all must call it at the same steps.

    It looks at the averaged weights; at the plain ones where these are what is written.

    Args:
        asked: the recipe's validation.
        plain: whether the files that are written hold the plain weights.

    Attributes:
        draw: draws the grid (H, W, 3), given the step; None = there is none.
        measure: the held-out loss under its name, and numbers beside it; None = as above.
        keep: writes the loadable file of the best step so far, given that.
        measured: what tells the pictures, noise and times that are measured from others.
        within: a block in which drawing and measuring may be interrupted, as by Ctrl-C.
        owed: it was put off or interrupted; a run that goes on sees to it first.
    """

    def __init__(
        self, asked: Validation, plain: bool, learner: Learner, ema: EMA, journal: Journal
    ) -> None:
        self.asked, self.plain = asked, plain
        self.learner, self.ema, self.journal = learner, ema, journal
        self.draw: Callable[[int], Tensor] | None = None
        self.measure: Callable[[], dict[str, float]] | None = None
        self.keep: Callable[[int], object] = lambda step: None
        self.within: Callable[[], AbstractContextManager] = nullcontext
        self.measured, self.best, self.owed = "", Best(), False

    def see(self, step: int, later: bool = False) -> None:
        """Draw and measure after a step, where the recipe says so.

        Args:
            later: put it off, as the run is to stop.
        """
        asked = self.asked
        due = step % asked.every == 0 if step and asked.every else not step and asked.at_start
        self.owed = due and later and bool(self.draw or self.measure)
        if not due or self.owed:
            return
        try:
            if self.draw:
                self._draw(step, self.draw)
            if self.measure:
                self._measure(step, self.measure)
        except Interrupted:
            self.owed = True
        self.journal.pause()

    def _draw(self, step: int, draw: Callable[[int], Tensor]) -> None:
        with self.ema.in_place(self.learner):
            with self.within():
                pixels = draw(step)
        self.journal.picture(step, "validation", pixels)

    def _measure(self, step: int, measure: Callable[[], dict[str, float]]) -> None:
        with nullcontext() if self.plain else self.ema.in_place(self.learner):
            with self.within():
                numbers = measure()
        self.journal.note(step, numbers)
        lowest = self.best.see(step, numbers[LOSS])
        log.info("step %d: held-out loss %.4f%s", step, numbers[LOSS], ", the lowest" * lowest)
        if lowest:
            self.keep(step)

    def state(self) -> dict[str, Any]:
        """The state as JSON, for a checkpoint."""
        return {**self.best.state(), "measured": self.measured, "owed": self.owed}

    def take_up(self, state: Mapping[str, Any] | None) -> None:
        """Go on from what a checkpoint holds; losses of other pictures or times do not compare."""
        same = state is not None and state.get("measured") == self.measured
        self.best = Best.from_state(state if same else None)
        self.owed = bool(state and state.get("owed"))

    def is_over(self) -> bool:
        """Whether the recipe's patience is used up; it is then the same in every process."""
        return self.best.is_over(self.asked.patience)

    def tell_over(self, step: int, steps: int) -> None:
        """Say why the run ends before its last step."""
        log.info(
            "the held-out loss has been no lower in %d measurements since step %s, as "
            "validation.patience has it: the run ends after step %d of %d",
            *(self.best.since, self.best.step, step, steps),
        )
