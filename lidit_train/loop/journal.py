"""What a run tells: a line of JSON now and then, trackers, a progress bar.

After a resume the lines beyond the checkpoint are cut off, so that the curve is that of one run.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor

from lidit_core.io.atomic import replacing

from ..recipe import Log
from .trackers import open_trackers, show_picture

log = logging.getLogger(__name__)


class Losses:
    """Sums since the last line: of the loss, of gradient norms and of each bin of times."""

    def __init__(self, bins: int, device) -> None:
        self.bins = bins
        self.sums = torch.zeros(2, bins, dtype=torch.float64, device=device)  # errors, counts
        self.loss, self.norm, self.steps, self.images = 0.0, 0.0, 0, 0

    def add(self, errors: Tensor, time_: Tensor) -> None:
        """Add samples' errors to the bins of their times; those that are not finite are left out.

        Args:
            errors: of samples, of any shape.
            time_: in (0, 1], as many as there are errors.
        """
        errors, time_ = errors.flatten(), time_.flatten()
        finite = errors.isfinite()  # a step that is skipped has others
        errors = errors.nan_to_num(0.0, 0.0, 0.0)
        places = (time_ * self.bins).ceil().long().clamp(1, self.bins) - 1
        self.sums[0].index_add_(0, places, errors.double())
        self.sums[1].index_add_(0, places, finite.double())

    def step(self, loss: float, norm: float, images: int) -> None:
        """Add a step's loss and gradient norm to the sums.

        Of a step without a finite loss or norm only the images are counted.

        Args:
            images: trained on in the step, by all processes.
        """
        self.images += images
        if math.isfinite(loss) and math.isfinite(norm):
            self.loss, self.norm = self.loss + loss, self.norm + norm
            self.steps += 1

    def state(self, accelerator: Accelerator) -> dict[str, Any]:
        """The sums over all processes, as JSON; every process must ask."""
        sums = cast(Tensor, accelerator.reduce(self.sums, "sum")).tolist()
        own = {"loss": self.loss, "norm": self.norm, "steps": self.steps, "images": self.images}
        return {"sums": sums, **own}

    def load_state(self, state: Mapping[str, Any], accelerator: Accelerator) -> None:
        """Go on from such sums; those of another number of bins are left out."""
        if len(state["sums"][0]) != self.bins:
            return
        if accelerator.is_main_process:  # they are summed over all processes again
            self.sums += torch.tensor(state["sums"], dtype=torch.float64).to(self.sums)
        self.loss, self.norm = state["loss"], state["norm"]
        self.steps, self.images = state["steps"], state["images"]

    def line(self, accelerator: Accelerator) -> dict[str, Any]:
        """Means over all processes; a bin without a sample is left out, as is what has no step."""
        sums = cast(Tensor, accelerator.reduce(self.sums, "sum"))
        named = {
            f"loss {n / self.bins:.2g}-{(n + 1) / self.bins:.2g}": round(float(error / count), 6)
            for n, (error, count) in enumerate(sums.T.tolist())
            if count
        }
        if not self.steps:
            return named
        return {"loss": self.loss / self.steps, "norm": self.norm / self.steps, **named}


class Journal:
    """Writes ``log.jsonl`` in the run's folder and tells the trackers; rank 0 alone.

    Args:
        stored: the whole recipe, for trackers that keep it.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Log,
        accelerator: Accelerator,
        steps: int,
        stored: Mapping[str, Any] | None = None,
    ) -> None:
        self.path, self.recipe, self.accelerator, self.steps = (
            folder / "log.jsonl", recipe, accelerator, steps,
        )  # fmt: skip
        self.stored = stored or {}
        self.began = time.monotonic()

    def begin(self, step: int) -> None:
        """Cut the log back to a step, and open the trackers there."""
        if self.accelerator.is_main_process and self.path.is_file():
            lines = self.path.read_text().splitlines(keepends=True)
            with replacing(self.path) as beside:
                beside.write_text("".join(line for line in lines if _is_before(line, step)))
        open_trackers(self.accelerator, self.recipe.trackers, self.path.parent, step, self.stored)
        self.began = time.monotonic()

    def write(self, step: int, line: Mapping[str, Any], images: int) -> dict[str, Any]:
        """Add a line of training, with its speed and time, which are no part of a curve.

        A number that is not finite, as of weights that have grown without bounds, is left out.
        """
        seconds, self.began = time.monotonic() - self.began, time.monotonic()
        return self.note(step, line, {"images/s": round(images / seconds, 2)})

    def note(
        self, step: int, line: Mapping[str, Any], speed: Mapping[str, float] | None = None
    ) -> dict[str, Any]:
        """Add a line of numbers; of those of training the speed is given too."""
        bad = [name for name, number in line.items() if not math.isfinite(number)]
        if bad:
            log.warning("%s of step %d is no finite number and is not logged", ", ".join(bad), step)
            line = {name: number for name, number in line.items() if name not in bad}
        line = {"step": step, **line, **(speed or {}), "at": time.time()}
        if self.accelerator.is_main_process:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
        numbers = {k: v for k, v in line.items() if k not in ("step", "at")}
        self.accelerator.log(numbers, step=step)
        return line

    def pause(self) -> None:
        """Leave the time since the last line out of the speed, as it was no training."""
        self.began = time.monotonic()

    def picture(self, step: int, name: str, pixels: Tensor) -> None:
        """Show a picture (H, W, 3) uint8 where a tracker can."""
        show_picture(self.accelerator, step, name, pixels)


def _is_before(line: str, step: int) -> bool:
    try:
        return json.loads(line)["step"] <= step
    except (ValueError, KeyError, TypeError):  # the last line of a run that was killed
        return False
