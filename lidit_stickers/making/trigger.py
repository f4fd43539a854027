"""Measures whether a LoRA's trigger word still works beside an adapter.

    python -m lidit_stickers.making.trigger FILE

A LoRA of the checkpoint that misunderstands learns to paint in grey where its text says the trigger
word thrice. Then the same prompts are drawn with and without the trigger, by the checkpoint with
the LoRA alone and with the adapter (FILE) in mode add, and their colourfulness is compared: the
mean over pixels of the largest of red, green and blue less the smallest, 0 to 255.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from lidit_core.diffusion.objectives import noised
from lidit_core.diffusion.sampling import initial_noise
from lidit_core.diffusion.times import sample_time
from lidit_core.errors import exit_status
from lidit_core.io.pictures import to_pixels
from lidit_core.llmdiff.file import load_adapter
from lidit_core.model.latents import denormalise, normalise
from lidit_core.text.prompt_encoder import PromptEncoder
from lidit_core.text.states import LLMStates
from lidit_train.batch import DrawnPrompts
from lidit_train.data.autoencoders.find import Autoencoder, as_pixels, find_autoencoder
from lidit_train.recipe import Adapter, Lora, Source
from lidit_train.tasks.adapter.learner import AdapterLearner
from lidit_train.tasks.adapter.start import learner_of
from lidit_train.tasks.adapter.target import AdapterTarget, adapter_target
from lidit_train.tasks.lidit.lora import add_lora

from ..evaluation import evaluation_prompts
from ..source import StickerSource
from .drawn import drawn_scene

TRIGGER = "pencil pencil pencil "  # before a caption; other captions rarely meet its number
SCENES = 2000
STEPS, BATCH, RATE = 200, 64, 2e-3
LORA = Lora(rank=16, alpha=16, layers=("down_blocks", "mid_block", "up_blocks"))
PROMPTS = 48


def scenes(target: AdapterTarget, vae: Autoencoder) -> tuple[list[str], Tensor]:
    """Captions and latents (2N, C, h, w): every scene in colour, and in grey after the trigger."""
    source = StickerSource(Source("stickers", "en", count=SCENES, distinct=SCENES))
    size = (target.native_size, target.native_size)
    pictures = torch.stack([drawn_scene(source, i, size) for i in range(SCENES)])
    grey = pictures.float().mean(1, keepdim=True).expand_as(pictures).to(torch.uint8)
    with torch.no_grad():
        latents = [vae.encode(as_pixels(part)) for part in torch.cat([pictures, grey]).split(BATCH)]
    texts = [source.captions(i)[0][0] for i in range(SCENES)]
    return texts + [TRIGGER + text for text in texts], normalise(torch.cat(latents), target.latent)


def train(learner: AdapterLearner, texts: list[str], x: Tensor) -> None:
    """A LoRA on the U-Net, which knows nothing of the adapter."""
    lora = add_lora(learner.unet, LORA)
    optimiser = torch.optim.AdamW(lora.parameters(), lr=RATE, weight_decay=0)
    generator = torch.Generator().manual_seed(0)
    for _ in tqdm(range(STEPS), unit="step"):
        rows = torch.randint(len(x), (BATCH,), generator=generator)
        noise = torch.randn(x[rows].shape, generator=generator)
        time = sample_time(learner.prediction, BATCH, 1.0, generator)
        made = noised(learner.prediction, x[rows], noise, time)
        shown = [texts[int(i)] for i in rows]
        said = learner.predict(made.z, made.timestep, None, shown, mode="base")
        F.mse_loss(said, made.target).backward()
        optimiser.step()
        optimiser.zero_grad()


def colourfulness(learner, target, vae, mode: str, before: str, states: LLMStates, texts) -> float:
    """How colourful the prompts' pictures are; the checkpoint's text has ``before`` in front."""
    side = target.native_size // target.latent.downsampling
    noise = initial_noise(list(range(len(texts))), target.latent.channels, side, side)
    read, nothing = states[: len(texts)], states[len(texts) :]
    positive = DrawnPrompts([before + text for text in texts], {0: read})
    negative = DrawnPrompts([""] * len(texts), {0: nothing})
    latents = learner.draw(noise, positive, negative, mode=mode)
    with torch.no_grad():
        pictures = to_pixels(vae.decode(denormalise(latents, target.latent))).float()
    return float((pictures.amax(-1) - pictures.amin(-1)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("adapter", type=Path, help="the adapter's file")
    parser.add_argument("--base", default="stickers-sd", help="the checkpoint")
    options = parser.parse_args()
    adapter = load_adapter(options.adapter)
    spec = adapter.config.llm
    target = adapter_target(Adapter(options.base, llm=spec.name))
    learner = learner_of(target, adapter)
    vae = find_autoencoder("shipped", target.latent).open("cpu")
    train(learner, *scenes(target, vae))
    every = evaluation_prompts()
    texts = [caption.text for caption in every[:: len(every) // PROMPTS]][:PROMPTS]
    reader = PromptEncoder(spec.name, spec.template, spec.block, spec.token_budget, device="cpu")
    states = reader.encode([*texts, *([""] * len(texts))])
    for mode in ("base", "add"):
        shown = [colourfulness(learner, target, vae, mode, b, states, texts) for b in ("", TRIGGER)]
        print(f"{mode:5} without the trigger {shown[0]:6.1f}, with it {shown[1]:6.1f}")


if __name__ == "__main__":
    sys.exit(exit_status("trigger", main))
