"""The same prompts from the same noise, drawn as training goes on, so that grids compare."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from lidit_core.diffusion.sampling import initial_noise
from lidit_core.io.atomic import replacing
from lidit_core.model.latents import denormalise
from lidit_core.text.states import LLMStates

from ...batch import Shown
from ...data.caption_states import CaptionReader
from ...data.prepare import Opened
from ...input_spec import InputSpec
from ...learner import Learner
from ...recipe import Validation

BATCH = 8  # pictures sampled at once
ROW = 8  # pictures side by side


class Grid:
    """Draws the recipe's prompts; their states are read once, before the LLM is let go.

    Args:
        readers: of the branches that read them, by branch.
    """

    def __init__(
        self,
        recipe: Validation,
        readers: Mapping[int, CaptionReader],
        spec: InputSpec,
    ) -> None:
        self.recipe, self.spec = recipe, spec
        self.texts = {i: reader.read([*recipe.prompts, ""]) for i, reader in readers.items()}

    def draw(self, learner: Learner, vae: Opened, device: torch.device | str) -> Tensor:
        """All prompts, one after the other, as one picture (H, W, 3) uint8."""
        count = len(self.recipe.prompts)
        pictures = []
        for first in range(0, count, BATCH):
            rows = torch.arange(first, min(first + BATCH, count))
            pictures.append(self._draw(learner, vae, rows, device))
        return _tiled(torch.cat(pictures))

    def _draw(self, learner: Learner, vae: Opened, rows: Tensor, device) -> Tensor:
        latent, last = self.spec.latent, len(self.recipe.prompts)
        side = self.spec.native_size // latent.downsampling
        seeds = [self.recipe.seed + int(row) for row in rows]
        noise = initial_noise(seeds, latent.channels, side, side).to(device)
        prompts = [self.recipe.prompts[int(row)] for row in rows]
        positive = Shown(prompts, self._text(rows, device))
        negative = Shown([""] * len(rows), self._text(torch.full_like(rows, last), device))
        steps, guidance = self.recipe.steps or None, self.recipe.guidance or None
        latents = learner.draw(noise, positive, negative, steps, guidance)
        return vae.decode(denormalise(latents, latent)).float().cpu()

    def _text(self, rows: Tensor, device) -> dict[int, LLMStates]:
        return {i: states[rows].trimmed().to(device) for i, states in self.texts.items()}


def _tiled(pictures: Tensor) -> Tensor:
    """(N, 3, H, W) in [0, 1] -> rows of ``ROW`` pictures, (H', W', 3) uint8."""
    empty = -len(pictures) % min(ROW, len(pictures))
    pictures = torch.cat([pictures, pictures.new_ones(empty, *pictures.shape[1:])])
    rows = [torch.cat(list(row), dim=2) for row in pictures.split(min(ROW, len(pictures)))]
    return (torch.cat(rows, dim=1) * 255).round().byte().permute(1, 2, 0)


def save_grid(pixels: Tensor, path: Path) -> None:
    with replacing(path) as beside:
        Image.fromarray(pixels.numpy()).save(beside, format="PNG")
