"""What a judge says of a picture, and what a judge is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..benchmarks.item import PromptItem


@dataclass(frozen=True)
class Verdict:
    """What a judge says of one picture."""

    scores: Mapping[str, float]  # by measure, if it can be told; 0 to 1, but for cosines
    seen: str = ""  # in a few words


class Judge(Protocol):
    """Judges pictures, one at a time and without chance."""

    name: str  # with the models that it uses, as the report names it
    measures: tuple[str, ...]
    tells: str  # the measure that is 1 for a hit; "" = none tells hits from failures
    edition: str = ""  # of its rules and models: verdicts of another are judged anew

    def judge(self, picture: np.ndarray, item: PromptItem) -> Verdict:
        """Judge a picture (H, W, 3) uint8."""
        ...

    def check_size(self, width: int, height: int) -> None:
        """Refuse pictures of a size that cannot be judged, before they are drawn.

        Raises:
            LiDiTError: these cannot.
        """

    def cut(self, prompt: str) -> int:
        """How many tokens of a prompt, its last ones, are not read."""
        return 0


class NoJudge(Judge):
    """Looks at nothing: pictures are drawn for a benchmark's own evaluator."""

    name, measures, tells = "none", (), ""

    def judge(self, picture: np.ndarray, item: PromptItem) -> Verdict:
        return Verdict({})
