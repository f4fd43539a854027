"""What is measured of a run's model, kept beside it: errors on held-out scenes, and scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from lidit_core.io.atomic import replacing
from lidit_core.pipeline import load_pipeline
from lidit_eval.command import evaluate
from lidit_eval.report import by_prompt

from ..text_gap import held_out_scenes, scene_errors
from .adapters import adapter_errors, score_words
from .variants import Ablation

ERRORS, NEAREST, SCORED = "errors.npy", "nearest.npy", "score"
MEASURE = "nearest"


@dataclass(frozen=True)
class Measured:
    """One run's figures, scene by scene and prompt by prompt."""

    errors: np.ndarray  # (times, scenes, 2) with the right caption, and with the empty prompt
    nearest: np.ndarray  # (prompts,) in [0, 1]; none where no pictures are drawn

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
    errors = _kept(
        folder / ERRORS,
        lambda: _errors(ablation, model, llms, device).numpy(),
    )
    nearest = np.zeros(0)
    if ablation.score.every:
        nearest = _kept(
            folder / NEAREST,
            lambda: _scores(ablation, model, folder / SCORED, llms, device),
        )
    return Measured(errors, nearest)


def is_measured(ablation: Ablation, folder: Path) -> bool:
    """Whether nothing is left to do."""
    return (folder / ERRORS).exists() and (not ablation.score.every or (folder / NEAREST).exists())


def _kept(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    if not path.exists():
        values = make()
        with replacing(path) as beside, open(beside, "wb") as file:
            np.save(file, values)
    return np.load(path)


def _errors(ablation: Ablation, model: Path, llms: Sequence[str], device: str | None) -> Tensor:
    if ablation.adapter:
        return adapter_errors(ablation, model, llms[0], device)
    gap = ablation.gap
    pipeline = load_pipeline(str(model), llms, device)
    return scene_errors(pipeline, held_out_scenes(gap.scenes), gap.times)


def _scores(
    ablation: Ablation, model: Path, out: Path, llms: Sequence[str], device: str | None
) -> np.ndarray:
    """By `lidit eval`, which goes on where it was killed."""
    score = ablation.score
    words = score_words(ablation, model) if ablation.adapter else [str(model)]
    words += ["--prompts", score.prompts, "--every", str(score.every), "--out", str(out)]
    words += [word for llm in llms for word in ("--llm", llm)]
    words += ["--device", device] if device else []
    found = by_prompt(evaluate(*words), MEASURE)
    return np.array([found[index] for index in sorted(found)])
