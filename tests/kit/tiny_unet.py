"""Tiny U-Nets with the blocks of SD1.5, of SDXL and of our demo, and what they are fed."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lidit_core.unet.families import FAMILIES, UNetShape

WIDE = {"context_width": 24, "model_channels": 32}
SMALL = UNetShape(96, (1, 1), (1, 1), (1, 0), 1, 64, num_heads=4, in_channels=16, out_channels=16)
TINY = {
    "sd15": replace(FAMILIES["sd15"], **WIDE),
    "sdxl": replace(FAMILIES["sdxl"], **WIDE, head_width=8, adm=6 * 256 + 16),
    "small": SMALL,
}


def random_unet(shape: UNetShape) -> torch.nn.Module:
    """diffusers' U-Net, with random weights."""
    from lidit_train.tasks.adapter.unet import build_unet

    torch.manual_seed(0)
    return build_unet(shape).eval()


def random_inputs(shape: UNetShape) -> dict[str, Tensor]:
    """Two noisy latents, and text states of 5 tokens."""
    make = torch.Generator().manual_seed(1)
    inputs = {
        "sample": torch.randn(2, shape.in_channels, 16, 16, generator=make),
        "timestep": torch.tensor([700.0, 30.0]),
        "encoder_hidden_states": torch.randn(2, 5, shape.context_width, generator=make),
    }
    if shape.adm:
        inputs["text_embeds"] = torch.randn(2, shape.adm - 6 * 256, generator=make)
        inputs["time_ids"] = torch.tensor([[64.0, 48.0, 0.0, 8.0, 64.0, 64.0]]).repeat(2, 1)
    return inputs


@torch.no_grad()
def predict(unet: torch.nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """What diffusers' U-Net predicts."""
    inputs = dict(inputs)
    added = {name: inputs.pop(name) for name in ("text_embeds", "time_ids") if name in inputs}
    return unet(**inputs, added_cond_kwargs=added).sample
