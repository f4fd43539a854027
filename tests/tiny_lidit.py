"""A tiny random LI-DiT checkpoint with its autoencoder, for the LLMs of `tiny_llm`."""

from __future__ import annotations

from pathlib import Path

import torch

from lidit_core.checkpoint import save_lidit, write_safetensors
from lidit_core.config import LatentFormat, LiDiTConfig, LLMSpec
from lidit_core.dit import LiDiT
from lidit_core.text import find_template
from lidit_core.vae import TinyAutoencoder


def lidit_config(*llms: str, **changes) -> LiDiTConfig:
    """A LI-DiT of width 32 for LLMs of width 32; 32-pixel pictures in 3 steps."""
    template = find_template("short")
    specs = (LLMSpec(name, 32, template=template, token_budget=24) for name in llms)
    fields = {
        "depth": 2,
        "width": 32,
        "heads": 4,
        "llms": tuple(specs),
        "latent": LatentFormat("tiny", mean=(0.1,), std=(2.0,)),
        "native_size": 32,
        "steps": 3,
        "guidance": 2.0,
    }
    return LiDiTConfig(**{**fields, **changes})


@torch.no_grad()
def randomise(module: torch.nn.Module, seed: int = 0, scale: float = 0.15) -> torch.nn.Module:
    """Random weights everywhere, so that nothing is multiplied by a zero-initialised gate."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return module


def save_lidit_files(folder: Path, config: LiDiTConfig) -> Path:
    """A random checkpoint and, beside it, the autoencoder that it names."""
    vae = TinyAutoencoder()
    torch.manual_seed(1)
    write_safetensors(folder / f"{config.latent.name}-vae.safetensors", vae_weights(vae), {})
    save_lidit(randomise(LiDiT(config)), config, folder / "model.safetensors")
    return folder / "model.safetensors"


def vae_weights(vae: TinyAutoencoder) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in vae.initialise().state_dict().items()}
