"""Train the stickers' autoencoder: ``python -m stickers.train_autoencoder runs/vae``."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lidit_core.checkpoint import write_safetensors
from lidit_core.errors import exit_status
from lidit_train.autoencoder import AutoencoderRecipe, AutoencoderTrainer
from lidit_train.linear_encoder import principal_components

from .kinds import KINDS
from .scenes import Item, SceneRequest, place, render

CROP = 64  # pixels: scenes are drawn at 64 or at 128, and the large ones cropped

FITTED = 400  # scenes of each size whose blocks the encoder's components are taken from

RECIPE = AutoencoderRecipe(light=("decoder.14", "decoder.15", "decoder.18"), batch=4, steps=6000)


def linear_encoder() -> tuple[Tensor, Tensor]:
    """Principal components of the blocks of fixed scenes at both sizes."""
    rng = np.random.default_rng(0)
    scenes = [place(any_request(rng), rng) for _ in range(FITTED)]
    return principal_components([_tensor([render(s, n) for s in scenes]) for n in (64, 128)])


def any_request(rng: np.random.Generator) -> SceneRequest:
    """Any objects in any colours they come in: a picture, not a sentence."""
    items = []
    for kind in rng.choice(list(KINDS), size=rng.integers(1, 5), replace=False):
        colours = (None, *KINDS[kind].colours)
        items.append(Item(str(kind), colours[rng.integers(len(colours))]))
    return SceneRequest(tuple(items))


def crop(rng: np.random.Generator) -> np.ndarray:
    """(64, 64, 3) uint8: a whole small scene, or a piece of a large one."""
    scene = place(any_request(rng), rng)
    if rng.random() < 0.4:
        return render(scene, CROP)
    x, y = rng.integers(0, CROP + 1, size=2)
    return render(scene, 2 * CROP)[y : y + CROP, x : x + CROP]


def draw(batch: int, step: int) -> Tensor:
    rng = np.random.default_rng([step, batch])
    return _tensor([crop(rng) for _ in range(batch)])


def _tensor(pictures: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the run keeps its state, and resumes")
    parser.add_argument("--steps", type=int, default=RECIPE.steps)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--export", type=Path, help="write the averaged weights, bfloat16, after")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    recipe = AutoencoderRecipe(**{**vars(RECIPE), "steps": options.steps})
    trainer = AutoencoderTrainer(recipe, linear_encoder(), draw, options.folder, options.device)
    model = trainer.train()
    if options.export:
        weights = {k: v.to(torch.bfloat16) for k, v in model.state_dict().items()}
        write_safetensors(options.export, weights, {"font": "Noto Color Emoji, SIL OFL 1.1"})


if __name__ == "__main__":
    sys.exit(exit_status("train_autoencoder", main))
