"""Draws with a U-Net that reads what a bridge writes in the place of its own text encoder, or
what a bridge adds to what that writes."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lidit_core.bridge.config import BridgeConfig
from lidit_core.bridge.encode import MASK, POOLED, OwnEntry, added, conditioning
from lidit_core.bridge.file import LoadedBridge, load_bridge
from lidit_core.bridge.recorded import ALIKE
from lidit_core.bridge.rows import StudentTokens
from lidit_core.bridged import BridgeReaders, llms_beside
from lidit_core.diffusion.objectives import guided
from lidit_core.diffusion.sampling import euler_steps
from lidit_core.diffusion.times import sampling_times
from lidit_core.errors import check
from lidit_core.io.conditioning import Entry, distance
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

if TYPE_CHECKING:
    from lidit_train.tasks.adapter.base_text import BaseText
    from lidit_train.tasks.adapter.target import UNetTarget


class BridgeDrawer:
    """Draws with a U-Net and a bridge, by the trainer's own reference sampler.

    Raises:
        LiDiTError: the model is no U-Net, or the bridge writes for another one, or adds to an
            encoder that is not the checkpoint's.
    """

    def __init__(self, args: argparse.Namespace, device: str) -> None:
        from lidit_train.tasks.adapter.target import pooled_width, unet_target
        from lidit_train.tasks.adapter.unet import read_unet
        from lidit_train.tasks.bridge.unet.input import check_read

        path = model_file(args.bridge)
        self.loaded, self.device = load_bridge(path, device), device
        config = self.loaded.bridge.config
        check(
            not args.lora,
            f"--bridge {path} is drawn without LoRAs; got --lora {args.lora}, which ComfyUI takes",
        )
        self.target = unet_target(str(model_file(args.model)), "")
        check_read(self.target, config.teacher)
        base = read_unet(self.target.base, self.target.asked)
        self.unet, self.prediction = base.unet, base.prediction
        nn.Module.to(self.unet, device)
        self.pooled = bool(pooled_width(base.shape))
        self.own = own_text(self.target).to(device) if config.add else None
        self.empty = self.loaded.empty if self.own is None else self._own_entry("")
        if config.add:
            check_own(self.loaded, self.empty, self.target.base)
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
        entries = [self._entry(prompt, students) for prompt, students in read]
        drawn: list[Tensor] = []
        rows = list(zip(noise.to(self.device), entries))
        for _, alike in groupby(rows, key=lambda row: row[1][0].shape[1]):  # chunks of a prompt
            z, read_by = zip(*alike)
            drawn += self._latents(torch.stack(z), joined(read_by))
        return self.vae.decode(denormalise(torch.stack(drawn), latent))

    def _entry(self, prompt: str, students: Sequence[StudentTokens]) -> Entry:
        if self.own is None:
            return conditioning(self.loaded, prompt, students)
        own = self._own_entry(prompt)
        return added(self.loaded, prompt, students, OwnEntry(own, own))

    @torch.no_grad()
    def _own_entry(self, prompt: str) -> Entry:
        """What the checkpoint's own text encoder writes."""
        from lidit_train.tasks.adapter.base_text import entry_of

        assert self.own is not None  # of a bridge that adds to it
        return entry_of(self.own, prompt, self.loaded.rows(prompt))

    def _latents(self, noise: Tensor, positive: Entry) -> Tensor:
        """Normalised latents of prompts with equally many rows."""
        empty = joined([self.empty] * len(noise))

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


def own_text(target: UNetTarget) -> BaseText:
    """The text encoders in a U-Net's checkpoint or folder.

    Raises:
        LiDiTError: it has none.
    """
    from lidit_train.tasks.adapter.base_text import lacking_text, read_base_text

    lacking = lacking_text(target, target.base)
    check(
        not lacking,
        f"the bridge adds to the checkpoint's own text encoder, and {target.base} holds no "
        f"{lacking}; give a checkpoint or a diffusers folder that has it",
    )
    return read_base_text(target.base, bool(target.shape.adm)).requires_grad_(False).eval()


def check_own(loaded: LoadedBridge, empty: Entry, base: Path) -> None:
    """Refuse a text encoder that writes another empty prompt than the one that is added to."""
    name, far = loaded.bridge.config.teacher.name, distance(loaded.empty, empty)
    check(
        far <= ALIKE,
        f"the bridge adds to what {name} wrote, and the text encoder in {base} writes another "
        f"empty prompt ({far:.2g} off); expected the checkpoint whose text encoder was recorded",
    )


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
