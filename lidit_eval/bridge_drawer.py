"""Draws with a U-Net that reads what a bridge writes in the place of its own text encoder."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor, nn

from lidit_core.bridge.config import BridgeConfig
from lidit_core.bridge.encode import MASK, POOLED, conditioning
from lidit_core.bridge.file import load_bridge
from lidit_core.bridged import BridgeReaders, llms_beside
from lidit_core.diffusion.objectives import guided
from lidit_core.diffusion.sampling import euler_steps
from lidit_core.diffusion.times import sampling_times
from lidit_core.errors import check
from lidit_core.io.conditioning import Entry
from lidit_core.io.pictures import to_pixels
from lidit_core.model.latents import denormalise

from .drawers import (
    NotesTold,
    autoencoder_of,
    device_map_of,
    model_file,
    noise_of,
    sampling_of,
    unet_size,
)
from .items import DrawingTask


class BridgeDrawer:
    """Draws with a U-Net and a bridge, by the trainer's own reference sampler.

    Raises:
        LiDiTError: the model is no U-Net, or the bridge writes for another one, or adds to an
            encoder.
    """

    def __init__(self, args: argparse.Namespace, device: str) -> None:
        from lidit_train.tasks.adapter.target import pooled_width, unet_target
        from lidit_train.tasks.adapter.unet import read_unet
        from lidit_train.tasks.bridge.unet.input import check_read

        path = model_file(args.bridge)
        self.loaded, self.device = load_bridge(path, device), device
        config = self.loaded.bridge.config
        check(
            not (config.add or args.lora),
            f"--bridge {path} is drawn with in the place of a text encoder, and without LoRAs; got "
            f"--lora {args.lora} or a bridge that adds to an encoder, which ComfyUI draws with",
        )
        self.target = unet_target(str(model_file(args.model)), "")
        check_read(self.target, config.teacher)
        base = read_unet(self.target.base, self.target.asked)
        self.unet, self.prediction = base.unet, base.prediction
        nn.Module.to(self.unet, device)
        self.pooled = bool(pooled_width(base.shape))
        self.vae = autoencoder_of(args).open(device)
        sources = bridge_sources(path, config, args.llm)
        self.readers = BridgeReaders(config, sources, device, device_map_of(args), args.cache)
        self.told = NotesTold()
        self.steps, self.guidance = sampling_of(args)
        self.size = unet_size(self.target, args.size)

    def draw(self, tasks: Sequence[DrawingTask]) -> Iterator[Tensor]:
        yield from to_pixels(self._pictures(tasks))

    @torch.no_grad()
    def _pictures(self, tasks: Sequence[DrawingTask]) -> Tensor:
        latent, prompts = self.target.latent, [task.item.prompt for task in tasks]
        noise = noise_of(tasks, latent, self.size)
        read = zip(prompts, self.readers.read(prompts))
        self.told((*self.readers.notes(), *self.readers.prompt_notes(prompts)))
        entries = [conditioning(self.loaded, prompt, students) for prompt, students in read]
        drawn: list[Tensor] = []
        rows = list(zip(noise.to(self.device), entries))
        for _, alike in groupby(rows, key=lambda row: row[1][0].shape[1]):  # chunks of a prompt
            z, read_by = zip(*alike)
            drawn += self._latents(torch.stack(z), joined(read_by))
        return self.vae.decode(denormalise(torch.stack(drawn), latent))

    def _latents(self, noise: Tensor, positive: Entry) -> Tensor:
        """Normalised latents of prompts with equally many rows."""
        empty = joined([self.loaded.empty] * len(noise))

        def predict(z: Tensor, t: Tensor) -> Tensor:
            return guided(self._say(z, t, positive), self._say(z, t, empty), self.guidance)

        times = sampling_times(self.prediction, self.steps, shift=1.0)
        return euler_steps(predict, noise, self.prediction, times)

    def _say(self, z: Tensor, t: Tensor, entry: Entry) -> Tensor:
        from lidit_train.tasks.adapter.unet import predicted

        sequence, values = entry
        mask, pooled = values.get(MASK), values.get(POOLED) if self.pooled else None
        seen = None if mask is None else mask.bool()
        return predicted(self.unet, z, t, sequence, seen, pooled)


def joined(entries: Sequence[Entry]) -> Entry:
    """Entries of one prompt each as one of them all, in float32; their sequences are alike long."""
    names = (MASK, POOLED)
    values = {
        name: torch.cat([entry[1][name] for entry in entries])
        for name in names
        if name in entries[0][1]
    }
    values = {k: v if k == MASK else v.float() for k, v in values.items()}
    return torch.cat([sequence for sequence, _ in entries]).float(), values


def bridge_sources(path: Path, config: BridgeConfig, words: Sequence[str]) -> dict[str, str]:
    """Find the sources of a bridge's LLMs, by the names that it has for them.

    Args:
        words: what the command line says of them.
    """
    names = [llm.name for llm in config.llms]
    found = {**dict(zip(names, names)), **llms_beside(path, config)}
    for word in words:
        name, equals, source = word.partition("=")
        known = name if equals else (names[0] if len(names) == 1 else name)
        check(
            known in names,
            f"--llm {word!r} is none of the bridge's LLMs; expected NAME=SOURCE, NAME one of "
            f"{', '.join(names)}",
        )
        found[known] = source if equals else word
    return found
