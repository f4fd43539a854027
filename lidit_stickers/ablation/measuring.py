"""What is measured of a run's model, kept beside it: errors on held-out scenes, and scores."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from lidit_core.io.arrays import kept_array
from lidit_core.pipeline import load_pipeline
from lidit_eval.command import evaluate
from lidit_eval.report import by_prompt

from ..scenes.grammar import Caption
from ..score import PROMPTS
from ..text_gap import held_out_scenes, scene_errors
from .adapters import adapter_errors, score_words
from .variants import Ablation, ScoreOptions

ERRORS, NEAREST, SCORED = "errors.npy", "nearest.npy", "score"
MEASURE = "nearest"


@dataclass(frozen=True, eq=False)
class RunMeasurements:
    """One run's figures, scene by scene and prompt by prompt."""

    errors: np.ndarray  # (times, scenes, 2) with the right caption, and with the empty prompt
    nearest: np.ndarray  # (prompts,) in [0, 1]; none where no pictures are drawn, or not yet
    also: dict[str, RunMeasurements] = field(
        default_factory=dict
    )  # of the ablation's further lists

    @property
    def gaps(self) -> np.ndarray:
        """The error with the empty prompt less that with the right one, (times, scenes)."""
        errors = self.errors.astype(np.float64)
        return errors[..., 1] - errors[..., 0]


@dataclass(frozen=True)
class Measuring:
    """What a run is measured with; none of it changes a figure."""

    llms: tuple[str, ...]  # ``NAME=SOURCE`` of each branch
    device: str | None
    cache: Path | None  # of the states of prompts, which runs share


def measure(
    ablation: Ablation, model: Path, folder: Path, by: Measuring, pictures: bool = True
) -> RunMeasurements:
    """Measure a model, or read what is kept in the folder.

    Args:
        pictures: whether those that are not there are drawn and judged.
    """

    def of_list(score: ScoreOptions, first: str = "") -> tuple[np.ndarray, np.ndarray]:
        prompts = PROMPTS[score.prompts]
        errors = kept_array(
            folder / (first + ERRORS), lambda: _errors(ablation, model, prompts(), by).numpy()
        )
        nearest = folder / (first + NEAREST)
        if not score.every or not (pictures or nearest.exists()):
            return errors, np.zeros(0)
        made = functools.partial(_scores, ablation, score, model, folder / (first + SCORED), by)
        return errors, kept_array(nearest, made)

    also = {s.prompts: RunMeasurements(*of_list(s, f"{s.prompts}-")) for s in ablation.also}
    return RunMeasurements(*of_list(ablation.score), also)


def is_measured(ablation: Ablation, folder: Path, pictures: bool = True) -> bool:
    """Whether nothing is left to do, or nothing but the pictures."""
    lists = [("", ablation.score), *((f"{s.prompts}-", s) for s in ablation.also)]
    wanted = [first + ERRORS for first, _ in lists]
    wanted += [first + NEAREST for first, score in lists if score.every and pictures]
    return all((folder / name).exists() for name in wanted)


def _errors(ablation: Ablation, model: Path, prompts: Sequence[Caption], by: Measuring) -> Tensor:
    """Measure a model's mean squared errors on scenes of held-out prompts: (times, scenes, 2)."""
    scenes = held_out_scenes(ablation.gap.scenes, prompts)
    if ablation.adapter:
        return adapter_errors(ablation, model, scenes, by.llms[0], by.device)
    return scene_errors(
        load_pipeline(str(model), by.llms, by.device, by.cache), scenes, ablation.gap.times
    )


def _scores(
    ablation: Ablation, score: ScoreOptions, model: Path, out: Path, by: Measuring
) -> np.ndarray:
    """The scores by `lidit eval`, which goes on where it was killed."""
    words = score_words(ablation, model) if ablation.adapter else [str(model)]
    words += ["--prompts", score.prompts, "--every", str(score.every), "--out", str(out)]
    words += [word for llm in by.llms for word in ("--llm", llm)]
    words += ["--cache", str(by.cache)] if by.cache else []
    words += ["--device", by.device] if by.device else []
    found = by_prompt(evaluate(*words), MEASURE)
    return np.array([found[index] for index in sorted(found)])
