"""A tiny run of an adapter: a demo checkpoint with random weights, a tiny LLM, twelve pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from tiny_llm import save_llm
from tiny_training import fields, pictures, write_recipe
from tiny_unet import SMALL, random_unet

from lidit_core.demo.checkpoint import DEMO_KEY, TEXT_PREFIX, DemoConfig
from lidit_core.llmdiff.file import load_adapter
from lidit_core.model.config import LatentFormat
from lidit_train.recipe import Recipe
from lidit_train.recipe_file import read_recipe
from lidit_train.run import train
from lidit_train.tasks.adapter.unet import write_ldm

SHAPE = replace(SMALL, model_channels=32, context_width=16)
LATENT = LatentFormat("stickers", std=(0.3,))


def write_demo_checkpoint(path: Path, shape=SHAPE) -> Path:
    """A checkpoint of the stickers' family, whose latents the shipped autoencoder makes."""
    config = DemoConfig(LATENT, 32, "v", shape.context_width, buckets=5)
    torch.manual_seed(1)
    text = {f"{TEXT_PREFIX}{k}": v for k, v in config.text_encoder().state_dict().items()}
    write_ldm(random_unet(shape), path, {DEMO_KEY: config.to_json()}, text)
    return path


def make_world(folder: Path) -> Path:
    """Pictures, a demo checkpoint and an LLM in a folder."""
    pictures(folder / "pictures")
    write_demo_checkpoint(folder / "base.safetensors")
    save_llm(folder / "llm", num_hidden_layers=2, hidden_size=16)
    return folder


def adapter_fields(folder: Path, **changes) -> dict:
    """A recipe's data: 8 steps of batch 4 at 32 pixels, both modes."""
    adapter = {"base": str(folder / "base.safetensors"), "llm": str(folder / "llm")}
    adapter |= changes.pop("adapter", {})
    cache = {"folder": str(folder / "cache"), "dtype": "float32"} | changes.pop("cache", {})
    made = fields(folder, "unused", trains="adapter", adapter=adapter, cache=cache, **changes)
    return {**made, "model": changes.get("model", {})}


def adapter_recipe(folder: Path, **changes) -> Recipe:
    return read_recipe(write_recipe(folder, adapter_fields(folder, **changes)))


def run_adapter(folder: Path, out: str, **changes) -> dict[str, torch.Tensor]:
    """Train in this process; the averaged weights that came out."""
    return load_adapter(train(adapter_recipe(folder, **changes), folder / out, "cpu")).state_dict()
