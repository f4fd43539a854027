"""Latents as a LI-DiT really gives them, for the autoencoder's decoder to learn from.

    python -m lidit_stickers.making.restore stickers --out runs/restored.safetensors
    python -m lidit_stickers.making.train_autoencoder recipes/autoencoder/stickers.yaml \\
        --out runs/vae \\
        --set restored=runs/restored.safetensors

True scenes get noise up to a time at which the model still knows where everything is, and are
sampled back; what the decoder should make of them is the drawing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lidit_core.diffusion.objectives import add_noise
from lidit_core.diffusion.sampling import sample
from lidit_core.errors import check, exit_status
from lidit_core.io.tensors import write_safetensors
from lidit_core.model.latents import denormalise, normalise
from lidit_core.pipeline import Pipeline, load_pipeline

from ..scenes.grammar import captions
from ..scenes.scenes import place, render

SEED = 20_261_127  # of captions, scenes and noise; no other list is drawn from it
A_CAPTION = 4  # scenes of each caption
TIME = 0.5  # up to which nothing of a scene is lost


@torch.no_grad()
def restored(pipeline: Pipeline, drawings: np.ndarray, prompt: str, time: float) -> Tensor:
    """Latents (B, C, H/8, W/8) that the model gives back of drawings (B, H, W, 3) uint8."""
    pixels = torch.from_numpy(drawings).permute(0, 3, 1, 2).float() / 255
    config = pipeline.model.config
    x = normalise(pipeline.vae.encode(pixels), config.latent)
    z = add_noise(config.prediction, x, torch.randn_like(x), torch.full((len(x),), time))
    positive, negative = (pipeline.encode([text] * len(x)) for text in (prompt, ""))
    painted = sample(pipeline.model, z, positive, negative, begin=time)
    return denormalise(painted, config.latent)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a shipped name or a LI-DiT's file")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.safetensors")
    parser.add_argument("--captions", type=int, default=500, help=f"{A_CAPTION} scenes of each")
    parser.add_argument("--time", type=float, default=TIME, help="up to which noise is added")
    parser.add_argument("--size", type=int, default=128, help="pixels")
    options = parser.parse_args()
    check(options.captions >= 1, f"--captions is {options.captions}; expected 1 or more")
    torch.manual_seed(SEED)
    pipeline, rng = load_pipeline(options.model, device="cpu"), np.random.default_rng(SEED)
    latents, drawings = [], []
    for caption in tqdm(captions(options.captions, SEED), unit="caption"):
        scenes = [place(caption.request, rng) for _ in range(A_CAPTION)]
        drawings.append(np.stack([render(scene, options.size) for scene in scenes]))
        latents.append(restored(pipeline, drawings[-1], caption.text, options.time))
    tensors = {
        "latents": torch.cat(latents).to(torch.bfloat16),
        "drawings": torch.from_numpy(np.concatenate(drawings)),
    }
    write_safetensors(options.out, tensors, {"model": options.model, "time": str(options.time)})


if __name__ == "__main__":
    sys.exit(exit_status("restore", main))
