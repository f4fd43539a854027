"""How well a model follows a bridge as it follows the recorded encoder, on prompts held out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ....lidit_core.io.conditioning import Entry
from ...node_notes import report
from ..files import GAP
from .prompts import Prompts
from .trajectories import Denoiser, Point, TrajectoryOptions, even

LOSS = "held-out loss"  # in a file's `stages`, beside the gap
MOST, POINTS = 16, 4  # prompts, and points of each one's trajectory


@dataclass(eq=False)
class HeldOutTrajectories:
    """Measures always on the same trajectories.

    The error of a prompt is that under the recorded conditioning's picture; the text gap is by how
    much less it is than with the empty prompt. The recorded encoder keeps 1, the empty prompt 0.
    """

    prompts: Prompts
    numbers: Sequence[int]
    asked: TrajectoryOptions
    seed: int
    write: Callable[[int], Entry]  # the bridge's conditioning of a prompt
    _known: dict[int, tuple[list[Point], float]] = field(default_factory=dict)

    @torch.no_grad()
    def measure(self, denoiser: Denoiser, what: str) -> Mapping[str, float]:
        """The held-out loss and the text gap that is kept.

        Args:
            what: is measured, for the node.
        """
        error = empty = 0.0
        for n, number in enumerate(self.numbers):
            report(f"{what}: {n + 1} of {len(self.numbers)} prompts")
            points, gap = self._points(denoiser, number)
            conds = denoiser.read(positive=self.write(number))["positive"]
            error += _mean(denoiser.errors(points, conds))
            empty += gap
        return {LOSS: error / len(self.numbers), GAP: 1 - error / max(empty, 1e-12)}

    def _points(self, denoiser: Denoiser, number: int) -> tuple[list[Point], float]:
        """The points of a prompt and the empty prompt's error there, computed once."""
        if number not in self._known:
            recorded, empty = self.prompts.entry(number), self.prompts.loaded.empty
            count = min(POINTS, self.asked.steps)
            shape = denoiser.latent.shape
            way = even(self.asked, denoiser.sampling, shape, count, self.seed, number)
            points = denoiser.along(way, recorded, empty)
            conds = denoiser.read(positive=empty)["positive"]
            self._known[number] = points, _mean(denoiser.errors(points, conds))
        return self._known[number]


def _mean(errors: Sequence[torch.Tensor]) -> float:
    return sum(float(error) for error in errors) / len(errors)
