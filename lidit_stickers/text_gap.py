"""The text gap: how much better a LI-DiT denoises a scene when it is told what the scene shows.

    python -m lidit_stickers.text_gap --model runs/mine/final.safetensors --times 0.7 0.85 0.95

Held-out scenes are noised up to each time t, and the model's mean squared error on its target with
the empty prompt, less that with the right caption, is the gap. A model that does not read its text
has a gap of 0. It tells ways of training apart in minutes, where scores need a thousand pictures.

With --turned the scenes are those of two things that stand in a relation, and in place of the empty
prompt the caption is read with left and right, above and below exchanged: a model that knows what
stands there and not where has a gap of 0.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from random import Random
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from lidit_core.branches import choose_llms
from lidit_core.checkpoints.lidit import read_config
from lidit_core.diffusion.objectives import noised
from lidit_core.diffusion.sampling import initial_noise
from lidit_core.errors import check, exit_status
from lidit_core.model.config import LatentFormat
from lidit_core.model.latents import normalise
from lidit_core.pipeline import Pipeline, load_pipeline
from lidit_core.shipped import find_model

from .evaluation import evaluation_prompts
from .scenes.grammar import Caption
from .scenes.scenes import Scene, place, render

SEED = 20_261_128  # of the order of captions, of scenes and noise; no other list is drawn from it
TIMES = (0.7, 0.85, 0.95)  # where it is decided what stands where
BATCH = 32  # scenes
OPPOSITES = (("left", "right"), ("above", "below"), ("over", "under"), ("top", "bottom"))
Scenes = Sequence[tuple[str, Scene]]  # with their captions


@dataclass(frozen=True)
class TextGap:
    """Mean squared errors at one time, of a number of the normalised latents."""

    time: float  # in (0, 1], 1 is noise
    captioned: float  # mean over scenes, with the right caption
    empty: float  # the same, with the empty prompt, or the relation turned round
    standard_error: float  # of their difference, from its deviation over scenes

    @property
    def gap(self) -> float:
        return self.empty - self.captioned


def held_out_scenes(count: int, prompts: Sequence[Caption] | None = None) -> Scenes:
    """Captions, each with a scene of its own; the first are the same for every count.

    The captions are those of the evaluation in a random order, again from the first where more are
    asked for. Each names a combination that the held-out rule keeps out of training.

    Args:
        prompts: another list in the evaluation's place.
    """
    prompts = evaluation_prompts() if prompts is None else prompts
    captions = Random(SEED).sample(prompts, len(prompts))
    chosen = [captions[n % len(captions)] for n in range(count)]
    return [
        (caption.text, place(caption.request, np.random.default_rng([SEED, n])))
        for n, caption in enumerate(chosen)
    ]


def turned(caption: str) -> str:
    """The caption with the relation turned round: left for right, above for below."""
    other = {word: opposite for pair in OPPOSITES for word, opposite in (pair, pair[::-1])}
    return re.sub(r"[a-z]+", lambda word: other.get(word[0], word[0]), caption)


def related_prompts() -> list[Caption]:
    """The evaluation's prompts that say how two things stand, in words that can be turned round."""
    return [c for c in evaluation_prompts() if c.request.relation and turned(c.text) != c.text]


def empty(caption: str) -> str:
    """The empty prompt, whatever the caption."""
    return ""


@torch.no_grad()
def scene_errors(
    pipeline: Pipeline,
    scenes: Scenes,
    times: Sequence[float],
    other: Callable[[str], str] = empty,
) -> Tensor:
    """Each scene's mean squared error on the model's target: (times, scenes, 2) on the CPU.

    The last axis is with the right caption, and with the other text, which is made of it. A scene
    is drawn at the model's native size, and has one noise for all times and both texts.
    """
    return denoiser_errors(LiDiTDenoiser(pipeline), scenes, times, other)


class MeasuredModel(Protocol):
    """A model whose errors on scenes are measured."""

    prediction: str  # "flow", "eps" or "v"
    native_size: int  # pixels
    latent: LatentFormat
    vae: Any  # encodes pictures (B, 3, H, W) in [0, 1]
    device: torch.device

    def read(self, texts: Sequence[str]) -> Any:
        """What the model reads of texts, as `say` takes it."""
        ...

    def say(self, z: Tensor, timestep: Tensor, text: Any) -> Tensor:
        """Predict the model's target from noisy latents (B, C, h, w)."""
        ...


class LiDiTDenoiser:
    """A LI-DiT with its LLMs."""

    def __init__(self, pipeline: Pipeline) -> None:
        config = pipeline.model.config
        self.pipeline, self.vae, self.device = pipeline, pipeline.vae, pipeline.device
        self.prediction, self.latent = config.prediction, config.latent
        self.native_size = config.native_size
        self.told: set[str] = set()

    def read(self, texts: Sequence[str]) -> Any:
        return self.pipeline.encode(texts, self.told)

    def say(self, z: Tensor, timestep: Tensor, text: Any) -> Tensor:
        model = self.pipeline.model
        return model(z.to(model.dtype), timestep, text)


@torch.no_grad()
def denoiser_errors(
    model: MeasuredModel,
    scenes: Scenes,
    times: Sequence[float],
    other: Callable[[str], str] = empty,
) -> Tensor:
    """Compute the errors of `scene_errors` for any model."""
    found = []
    for first in tqdm(range(0, len(scenes), BATCH), unit="batch", disable=None):
        captions, shown = zip(*scenes[first : first + BATCH])
        x = scene_latents(model, shown)
        seeds = [SEED + first + row for row in range(len(x))]
        noise = initial_noise(seeds, *x.shape[1:]).to(x)
        texts = [model.read(read) for read in (captions, [other(c) for c in captions])]
        found.append(_errors(model, x, noise, texts, times))
    return torch.cat(found, dim=1)


def scene_latents(model: MeasuredModel, scenes: Sequence[Scene]) -> Tensor:
    """Normalised latents (B, C, h, w) of the drawings, at the model's native size."""
    drawings = np.stack([render(scene, model.native_size) for scene in scenes])
    pixels = torch.from_numpy(drawings).to(model.device).permute(0, 3, 1, 2).float() / 255
    return normalise(model.vae.encode(pixels), model.latent)


def _errors(model: MeasuredModel, x: Tensor, noise: Tensor, texts, times) -> Tensor:
    """Compute the errors (times, B, texts) from latents and noise (B, C, h, w)."""
    rows = []
    for time in times:
        t = torch.full((len(x),), time, device=x.device)
        made = noised(model.prediction, x, noise, t)
        said = [model.say(made.z, made.timestep, text).float() for text in texts]
        errors = [F.mse_loss(v, made.target, reduction="none").mean((1, 2, 3)) for v in said]
        rows.append(torch.stack(errors, dim=-1).cpu())
    return torch.stack(rows)


def check_times(times: Sequence[float]) -> None:
    """Raise unless noise can be added up to each time."""
    for time in times:
        check(0 < time <= 1, f"the time {time} is out of range; expected 0 < t <= 1, 1 is noise")


def text_gaps(
    pipeline: Pipeline, count: int, times: Sequence[float] = TIMES, related: bool = False
) -> list[TextGap]:
    """The gap at each time; with `related` that of relations alone, to those turned round.

    Raises:
        LiDiTError: a time outside (0, 1], or fewer than two scenes, which have no standard error.
    """
    check(count >= 2, f"{count} scenes were asked for; expected --count 2 or more")
    check_times(times)
    scenes = held_out_scenes(count, related_prompts() if related else None)
    errors = scene_errors(pipeline, scenes, times, turned if related else empty).double()
    return [_gap(time, *rows.unbind(-1)) for time, rows in zip(times, errors)]


def _gap(time: float, captioned: Tensor, empty: Tensor) -> TextGap:
    """The text gap from the errors (N,) of all scenes."""
    deviation = float((empty - captioned).std())
    means = float(captioned.mean()), float(empty.mean())
    return TextGap(time, *means, deviation / sqrt(len(captioned)))


def chosen_llms(model: str, llms: Sequence[str], branches: Sequence[int]) -> list[str]:
    """The ``NAME=SOURCE`` of each branch, wherever ``llms`` (see `choose_llms`) say its LLM is.

    Without branches they are those of ``llms``, or of the model.
    """
    if not branches:
        return list(llms)
    config = read_config(find_model(model)[0])
    names = [spec.name for spec in config.llms]
    for branch in branches:
        check(
            0 <= branch < len(names),
            f"the model has no branch {branch}; expected 0 to {len(names) - 1}",
        )
    sources = choose_llms(config, llms, names)
    return [
        f"{names[branch]}={sources.get(branch, names[branch])}"
        for branch in dict.fromkeys(branches)
    ]


def table(gaps: Sequence[TextGap]) -> str:
    """A line a time."""
    lines = ["t      with caption  other     gap       standard error"]
    for g in gaps:
        numbers = f"{g.captioned:<12.6f}  {g.empty:<8.6f}  {g.gap:<8.6f}  {g.standard_error:.6f}"
        lines.append(f"{g.time:<5g}  {numbers}")
    return "\n".join(lines)


def scene_options(text: str | None, count: int, times: Sequence[float]) -> argparse.ArgumentParser:
    """The options of a command that measures a model on noised held-out scenes.

    Args:
        text: what the command says of itself.
        count, times: where none are given.
    """
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="stickers", help="a shipped name or a LI-DiT's file")
    add("--llm", action="append", default=[], metavar="[NAME=]LLM", help="as for lidit generate")
    add("--count", type=int, default=count, help="held-out scenes")
    add("--times", type=float, nargs="+", default=times, metavar="T", help="1 is noise")
    return parser


def main(words: Sequence[str] | None = None) -> None:
    parser = scene_options(__doc__, 1000, TIMES)
    add = parser.add_argument
    add("--branches", type=int, nargs="+", default=[], help="that read (those of --llm, or all)")
    add("--turned", action="store_true", help="relations, against those turned round")
    options = parser.parse_args(words)
    llms = chosen_llms(options.model, options.llm, options.branches)
    pipeline = load_pipeline(options.model, llms)
    print(table(text_gaps(pipeline, options.count, options.times, options.turned)))


if __name__ == "__main__":
    sys.exit(exit_status("text_gap", main))
