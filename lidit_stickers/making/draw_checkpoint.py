"""Pictures of the checkpoint that misunderstands, alone or repaired by an adapter, to be scored.

    python -m lidit_stickers.making.draw_checkpoint --adapter FILE --mode add \\
        --prompts prompts.txt --out DIR

Modes are those of the adapter, and "base" for the checkpoint alone. Without a host, by the
trainer's own reference sampler.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lidit_core.diffusion.sampling import initial_noise
from lidit_core.errors import exit_status
from lidit_core.io.pictures import to_pixels
from lidit_core.llmdiff.file import load_adapter
from lidit_core.model.latents import denormalise
from lidit_core.text.prompt_encoder import PromptEncoder
from lidit_core.text.spec import LLMSpec
from lidit_train.batch import DrawnPrompts
from lidit_train.data.autoencoders.find import find_autoencoder
from lidit_train.recipe import Adapter
from lidit_train.tasks.adapter.start import learner_of
from lidit_train.tasks.adapter.target import adapter_target

BATCH = 16
SHOWN = 128  # pixels: the pictures are made larger for the scorer, which was made for this size


def draw(options: argparse.Namespace) -> None:
    adapter = load_adapter(options.adapter)
    spec = adapter.config.llm
    target = adapter_target(Adapter(options.base, llm=options.llm or spec.name))
    learner = learner_of(target, adapter)
    reader = _reader(spec, options)
    vae = find_autoencoder("shipped", target.latent).open("cpu")
    prompts = options.prompts.read_text(encoding="utf-8").splitlines()
    side = target.native_size // target.latent.downsampling
    options.out.mkdir(parents=True, exist_ok=True)
    for first in range(0, len(prompts), BATCH):
        texts = prompts[first : first + BATCH]
        noise = initial_noise(
            list(range(first, first + len(texts))), target.latent.channels, side, side
        )
        positive = DrawnPrompts(texts, {0: reader.encode(texts)})
        negative = DrawnPrompts([""] * len(texts), {0: reader.encode([""] * len(texts))})
        latents = learner.draw(noise, positive, negative, options.steps, options.cfg, options.mode)
        with torch.no_grad():
            pictures = vae.decode(denormalise(latents, target.latent))
        for number, picture in enumerate(to_pixels(pictures), start=first):
            _save(picture, options.out / f"{number:05d}.png")


def _reader(spec: LLMSpec, options: argparse.Namespace) -> PromptEncoder:
    return PromptEncoder(
        options.llm or spec.name,
        spec.template,
        spec.block,
        spec.token_budget,
        device="cpu",
        disk_cache=options.cache,
    )


def _save(picture: Tensor, path: Path) -> None:
    image = Image.fromarray(np.asarray(picture))
    image.resize((SHOWN, SHOWN), Image.Resampling.LANCZOS).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--base", default="stickers-sd", help="the checkpoint: a shipped name or a file")
    add("--adapter", type=Path, required=True, help="the adapter's file")
    add("--mode", choices=("base", "replace", "add"), required=True)
    add("--prompts", type=Path, required=True, help="a prompt a line")
    add("--out", type=Path, required=True, help="folder for 00000.png, …")
    add("--llm", default="", help="where the LLM is, if not under its name")
    add("--steps", type=int, default=25)
    add("--cfg", type=float, default=5.0)
    add("--cache", type=Path, help="folder that keeps the LLM's states")
    draw(parser.parse_args())


if __name__ == "__main__":
    sys.exit(exit_status("draw_checkpoint", main))
