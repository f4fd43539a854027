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

from ...batch import DrawnPrompts
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
        self.recipe, self.spec, self.prompts = recipe, spec, recipe.drawn
        texts = [*(p.text for p in self.prompts), ""]
        texts += [p.negative for p in self.prompts if p.negative]
        self.place = {text: place for place, text in enumerate(texts)}  # of negative prompts
        read = {i: reader.read_counted(texts, spec.characters) for i, reader in readers.items()}
        self.texts = {i: one.states.to(dtype=torch.float32) for i, one in read.items()}
        self.spans = {i: one.spans for i, one in read.items() if one.spans is not None}

    def draw(self, learner: Learner, vae: Opened, device: torch.device | str) -> Tensor:
        """All prompts, one after the other, as one picture (H, W, 3) uint8.

        Where an adapter draws in several modes, a row is a prompt in each of them.
        """
        modes, drawn = self.recipe.modes or ("",), {}
        for size in self.recipe.sizes(self.spec.native_size):
            alike = [row for row in range(len(self.prompts)) if self._size(row) == size]
            for first in range(0, len(alike), BATCH):
                rows = torch.tensor(alike[first : first + BATCH])
                for mode in modes:
                    pictures = self._draw(learner, vae, rows, device, mode)
                    drawn |= {(int(row), mode): one for row, one in zip(rows, pictures)}
        pictures = [drawn[row, mode] for row in range(len(self.prompts)) for mode in modes]
        return _tiled(_of_one_size(pictures), len(modes) if self.recipe.modes else ROW)

    def _size(self, row: int) -> tuple[int, int]:
        native = self.spec.native_size
        width, height = self.prompts[row].size or (native, native)
        return width, height

    def _draw(self, learner: Learner, vae: Opened, rows: Tensor, device, mode: str) -> Tensor:
        latent, drawn = self.spec.latent, [self.prompts[row] for row in rows.tolist()]
        width, height = (side // latent.downsampling for side in self._size(int(rows[0])))
        own = [p.seed for p in drawn]
        places = [self.recipe.seed + row for row in rows.tolist()]
        seeds = [place if seed is None else seed for seed, place in zip(own, places)]
        noise = initial_noise(seeds, latent.channels, height, width).to(device)
        positive = DrawnPrompts([p.text for p in drawn], *self._text(rows, device))
        others = torch.tensor([self._negative(p.negative) for p in drawn])
        negative = DrawnPrompts([p.negative for p in drawn], *self._text(others, device))
        steps, guidance = self.recipe.steps or None, self.recipe.guidance or None
        latents = learner.draw(noise, positive, negative, steps, guidance, mode)
        return vae.decode(denormalise(latents, latent)).float().cpu()

    def _negative(self, text: str) -> int:
        return self.place[text] if text else len(self.prompts)

    def _text(self, rows: Tensor, device) -> tuple[dict[int, LLMStates], dict[int, Tensor]]:
        """The states of some texts by branch, and the characters of their tokens."""
        states = {i: read[rows].trimmed().to(device) for i, read in self.texts.items()}
        lengths = {i: read.roles.shape[1] for i, read in states.items()}
        spans = {i: own[rows, : lengths[i]].to(device) for i, own in self.spans.items()}
        return states, spans


def _of_one_size(pictures: list[Tensor]) -> Tensor:
    """Stack pictures, (N, 3, H, W), each in the middle of white where others are larger."""
    height, width = (max(p.shape[side] for p in pictures) for side in (1, 2))
    whole = pictures[0].new_ones(len(pictures), 3, height, width)
    for place, picture in enumerate(pictures):
        top, left = (height - picture.shape[1]) // 2, (width - picture.shape[2]) // 2
        whole[place, :, top : top + picture.shape[1], left : left + picture.shape[2]] = picture
    return whole


def _tiled(pictures: Tensor, row: int) -> Tensor:
    """Tile pictures (N, 3, H, W) in [0, 1] into rows of so many: (H', W', 3) uint8."""
    row = min(row, len(pictures))
    empty = -len(pictures) % row
    pictures = torch.cat([pictures, pictures.new_ones(empty, *pictures.shape[1:])])
    rows = [torch.cat(list(several), dim=2) for several in pictures.split(row)]
    return (torch.cat(rows, dim=1) * 255).round().byte().permute(1, 2, 0)


def save_grid(pixels: Tensor, path: Path) -> None:
    with replacing(path) as beside:
        Image.fromarray(pixels.numpy()).save(beside, format="PNG")
