"""Train the stickers' autoencoder.

    python -m lidit_stickers.making.train_autoencoder recipes/autoencoder/stickers.yaml \\
        --out runs/vae

The same command again goes on; DIR/final.safetensors holds the averaged weights at the end.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lidit_core.errors import exit_status
from lidit_core.io.tensors import check_finite, read_safetensors, write_safetensors
from lidit_core.model.vae import DOWNSAMPLING
from lidit_core.pipeline import find_device
from lidit_train.recipe_file import read_recipe
from lidit_train.vae.linear_encoder import principal_components
from lidit_train.vae.trainer import AutoencoderRecipe, AutoencoderTrainer, Crops

from ..scenes.kinds import KINDS
from ..scenes.request import Item, SceneRequest
from ..scenes.scenes import Scene, place, render

FITTED = 400  # scenes of each size whose blocks the encoder's components are taken from
A_SCENE = 2  # crops taken from each scene that is drawn


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


def corner(scene: Scene, size: int, side: int, rng: np.random.Generator) -> tuple[int, int]:
    """Left and top, in pixels, of a crop about the middle of one of the scene's objects."""
    sprite = scene.sprites[rng.integers(len(scene.sprites))]
    reach = sprite.side * size / 2
    middle = (np.array([sprite.x, sprite.y]) * size + rng.uniform(-reach, reach, 2)).round()
    left, top = np.clip(middle.astype(int) - side // 2, 0, size - side)
    return int(left), int(top)


class SceneCrops:
    """Draws what the decoder learns from: crops of new scenes, or of latents of a model."""

    def __init__(self, recipe: AutoencoderRecipe) -> None:
        self.recipe = recipe
        self.restored = read_safetensors(recipe.restored)[0] if recipe.restored else None

    def __call__(self, count: int, side: int, step: int) -> Crops:
        rng = np.random.default_rng([self.recipe.seed, step, count])
        if self.restored is not None and rng.random() < self.recipe.restored_share:
            return self._restored(self.restored, count, side, rng)
        crops: list[np.ndarray] = []
        while len(crops) < count:
            crops += self._of_a_scene(side, rng)
        return Crops(_tensor(crops[:count]))

    def _of_a_scene(self, side: int, rng: np.random.Generator) -> list[np.ndarray]:
        scene, size = place(any_request(rng), rng), int(rng.choice(self.recipe.sides))
        picture = render(scene, size)
        corners = [corner(scene, size, side, rng) for _ in range(A_SCENE)]
        return [picture[y : y + side, x : x + side] for x, y in corners]

    def _restored(
        self, kept: Mapping[str, Tensor], count: int, side: int, rng: np.random.Generator
    ) -> Crops:
        """Latents cut on their own grid, and the same piece of the drawing they should be."""
        latents, drawings = kept["latents"], kept["drawings"]
        pieces, pictures = [], []
        for i in rng.integers(len(latents), size=count):
            room = latents.shape[2] - side // DOWNSAMPLING
            x, y = rng.integers(0, room + 1, size=2)
            step = side // DOWNSAMPLING
            pieces.append(latents[i, :, y : y + step, x : x + step].float())
            left, top = x * DOWNSAMPLING, y * DOWNSAMPLING
            pictures.append(drawings[i, top : top + side, left : left + side].numpy())
        return Crops(_tensor(pictures), torch.stack(pieces))


def _tensor(pictures: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path, help="a YAML file of lidit_train.vae.trainer's fields")
    parser.add_argument("--out", type=Path, required=True, help="the run's folder")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="repeat")
    parser.add_argument("--device", help="cpu, cuda … (NVIDIA or AMD GPU, else cpu)")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    recipe = read_recipe(options.recipe, options.set, AutoencoderRecipe)
    crops = SceneCrops(recipe)
    device = find_device(options.device)
    trainer = AutoencoderTrainer(recipe, linear_encoder, crops, options.out, device)
    weights = {k: v.to(torch.bfloat16) for k, v in trainer.train().state_dict().items()}
    notes = {"font": "Noto Color Emoji, SIL OFL 1.1", "recipe": repr(recipe)}
    check_finite(weights, options.out / "final.safetensors")
    write_safetensors(options.out / "final.safetensors", weights, notes)


if __name__ == "__main__":
    sys.exit(exit_status("train_autoencoder", main))
