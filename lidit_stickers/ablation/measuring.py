"""What is measured of a run's model, kept beside it: errors on held-out scenes, and scores."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from lidit_core.io.atomic import replacing
from lidit_core.pipeline import load_pipeline
from lidit_eval.command import evaluate
from lidit_eval.report import by_prompt

from ..score import PROMPTS
from ..text_gap import Scenes, held_out_scenes, scene_errors
from .adapters import adapter_errors, score_words
from .variants import Ablation, Score

ERRORS, NEAREST, SCORED = "errors.npy", "nearest.npy", "score"
MEASURE = "nearest"


@dataclass(frozen=True)
class Measured:
    """One run's figures, scene by scene and prompt by prompt."""

    errors: np.ndarray  # (times, scenes, 2) with the right caption, and with the empty prompt
    nearest: np.ndarray  # (prompts,) in [0, 1]; none where no pictures are drawn
    also: dict[str, Measured] = field(default_factory=dict)  # of the ablation's further lists

    @property
    def gaps(self) -> np.ndarray:
        """(times, scenes)"""
        return (self.errors[..., 1] - self.errors[..., 0]).astype(np.float64)


def measure(
    ablation: Ablation, model: Path, folder: Path, llms: Sequence[str], device: str | None
) -> Measured:
    """Measure a model, or read what is kept in the folder.

    Args:
        llms: ``NAME=SOURCE`` of each branch.
    """

    def of_list(score: Score, first: str = "") -> tuple[np.ndarray, np.ndarray]:
        scenes = held_out_scenes(ablation.gap.scenes, PROMPTS[score.prompts]() if first else None)
        errors = _kept(
            folder / (first + ERRORS),
            lambda: _errors(ablation, model, scenes, llms, device).numpy(),
        )
        if not score.every:
            return errors, np.zeros(0)
        drawn = folder / (first + SCORED)
        made = functools.partial(_scores, ablation, score, model, drawn, llms, device)
        return errors, _kept(folder / (first + NEAREST), made)

    also = {s.prompts: Measured(*of_list(s, f"{s.prompts}-")) for s in ablation.also}
    return Measured(*of_list(ablation.score), also)


def is_measured(ablation: Ablation, folder: Path) -> bool:
    """Whether nothing is left to do."""
    lists = [("", ablation.score), *((f"{s.prompts}-", s) for s in ablation.also)]
    wanted = [first + ERRORS for first, _ in lists]
    wanted += [first + NEAREST for first, score in lists if score.every]
    return all((folder / name).exists() for name in wanted)


def _kept(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    if not path.exists():
        values = make()
        with replacing(path) as beside, open(beside, "wb") as file:
            np.save(file, values)
    return np.load(path)


def _errors(
    ablation: Ablation, model: Path, scenes: Scenes, llms: Sequence[str], device: str | None
) -> Tensor:
    if ablation.adapter:
        return adapter_errors(ablation, model, scenes, llms[0], device)
    return scene_errors(load_pipeline(str(model), llms, device), scenes, ablation.gap.times)


def _scores(
    ablation: Ablation,
    score: Score,
    model: Path,
    out: Path,
    llms: Sequence[str],
    device: str | None,
) -> np.ndarray:
    """By `lidit eval`, which goes on where it was killed."""
    words = score_words(ablation, model) if ablation.adapter else [str(model)]
    words += ["--prompts", score.prompts, "--every", str(score.every), "--out", str(out)]
    words += [word for llm in llms for word in ("--llm", llm)]
    words += ["--device", device] if device else []
    found = by_prompt(evaluate(*words), MEASURE)
    return np.array([found[index] for index in sorted(found)])
