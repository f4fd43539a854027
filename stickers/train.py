"""Train the sticker weights: ``python -m stickers.train stickers/recipes/stickers.toml``.

Resumes from the run's folder; with ``--export FILE`` it writes the averaged weights instead.
"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lidit_core.checkpoint import save_lidit
from lidit_core.config import LatentFormat, LiDiTConfig
from lidit_core.dit import LiDiT
from lidit_core.errors import LiDiTError, exit_status
from lidit_core.latents import denormalise, normalise
from lidit_core.sampling import initial_noise, sample
from lidit_core.states import LLMStates
from lidit_core.vae import TinyAutoencoder
from lidit_train.data import CaptionStates, LatentSet
from lidit_train.recipe import Recipe, read_recipe
from lidit_train.state import load_state
from lidit_train.trainer import Trainer

from .prepare import autoencoder, caption_states

GRID = 16  # pictures in a grid: the first captions, branch 0 in the upper half, all below


def measured_format(data: LatentSet, base: LatentFormat) -> LatentFormat:
    """The latent format with each channel's mean, and the deviation of all, over the pictures."""
    latents = data.latents.float()
    mean = latents.mean((0, 2, 3))
    std = (latents - mean[:, None, None]).square().mean().sqrt()
    return replace(base, mean=tuple(round(float(v), 4) for v in mean), std=(round(float(std), 4),))


def with_preview(config: LiDiTConfig, vae: TinyAutoencoder, latents: Tensor) -> LiDiTConfig:
    """The configuration with preview factors: least squares from latents to their mean colours."""
    with torch.no_grad():
        colours = 2 * F.avg_pool2d(vae.decode(latents.float()), config.latent.downsampling) - 1
    seen = normalise(latents, config.latent)
    x, y = (v.permute(0, 2, 3, 1).flatten(0, 2) for v in (seen, colours))
    fit = torch.linalg.lstsq(F.pad(x, (0, 1), value=1.0), y).solution  # (channels + 1, 3)
    rows = tuple(tuple(round(float(v), 4) for v in row) for row in fit)
    return replace(config, latent=replace(config.latent, rgb_factors=rows[:-1], rgb_bias=rows[-1]))


class Grid:
    """Draws the same captions from the same noise, so that grids of a run compare."""

    def __init__(self, captions: CaptionStates, vae: TinyAutoencoder, size: int) -> None:
        self.captions, self.vae, self.size = captions, vae, size

    def __call__(self, model: LiDiT, path: Path) -> None:
        half = GRID // 2
        halves = [
            self._draw(model, (0,), half),
            self._draw(model, tuple(self.captions.branches), half),
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = torch.cat([torch.cat(list(pictures), dim=2) for pictures in halves], dim=1)
        Image.fromarray((rows * 255).round().byte().permute(1, 2, 0).numpy()).save(path)

    def _draw(self, model: LiDiT, branches: tuple[int, ...], count: int) -> Tensor:
        device = next(model.parameters()).device
        side = self.size // model.config.latent.downsampling
        noise = initial_noise(list(range(count)), model.config.latent.channels, side, side)
        texts = [torch.arange(count), torch.full((count,), self.captions.empty)]
        positive, negative = (_on(self.captions.rows(rows, branches), device) for rows in texts)
        latents = sample(model, noise.to(device), positive, negative, steps=12)
        return self.vae.decode(denormalise(latents.cpu(), model.config.latent))


def _on(text: dict[int, LLMStates], device) -> dict[int, LLMStates]:
    return {i: states.to(device) for i, states in text.items()}


def trainer_of(recipe: Recipe, data: Path, run: Path, vae: Path, device: str) -> Trainer:
    captions = caption_states(data, recipe.branches)
    config = sticker_config(recipe, data, run)
    grid = Grid(captions, autoencoder(vae), config.native_size)
    return Trainer(recipe, config, captions, data, run, grid, device)


def sticker_config(recipe: Recipe, data: Path, run: Path) -> LiDiTConfig:
    """The preset with the latents as they are; as they were when the run began, where it has."""
    config, state = recipe.config(), load_state(run / "state.pt")
    if state is not None:
        return replace(config, latent=LiDiTConfig.from_json(state["config"]).latent)
    latents = LatentSet.load(data / recipe.stages[-1].latents)
    return replace(config, latent=measured_format(latents, config.latent))


def export(trainer: Trainer, vae: TinyAutoencoder, path: Path) -> None:
    """Write the run's averaged weights in bfloat16, with what a host needs for previews."""
    if trainer.step == 0:
        raise LiDiTError(
            f"{trainer.run} holds no state of a run, so there are no trained weights to export; "
            "name the folder of a run that has been saved with --run"
        )
    some = next(iter(trainer.batches.sets.values())).latents[:200]
    config = with_preview(trainer.model.config, vae, some)
    weights = {k: v.to(torch.bfloat16) for k, v in trainer.ema.weights.items()}
    save_lidit(weights, config, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data", type=Path, default=Path("runs/data"))
    parser.add_argument("--vae", type=Path, default=Path("runs/vae"))
    parser.add_argument("--run", type=Path, default=Path("runs/stickers"))
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop, saved, after")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--export", type=Path, help="write the averaged weights, bfloat16, and end")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    trainer = trainer_of(
        read_recipe(options.recipe), options.data, options.run, options.vae, options.device
    )
    if options.export:
        return export(trainer, autoencoder(options.vae), options.export)
    trainer.train(options.minutes * 60)


if __name__ == "__main__":
    sys.exit(exit_status("train", main))
