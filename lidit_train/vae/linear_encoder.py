"""An encoder that needs no training: principal components of 8x8 blocks, in TAESD's layout.

TAESD's encoder can hold any linear map of blocks exactly: its strided convolutions move pixels
into channels (all of them positive, so that each ReLU lets them pass), the last of these takes
the components with both signs, and the final convolution puts the signs together again. On
sticker scenes 16 components keep 94 % of the variance. A component's deviation is divided by its
own square root, so that coarse ones stay larger than fine ones, as in a picture.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from lidit_core.model.vae import CHANNELS, DOWNSAMPLING, TinyAutoencoder, bias_of, convolution

BYPASSED = tuple(f"encoder.{i}" for i in (1, 3, 4, 5, 7, 8, 9, 11, 12, 13))  # all of its blocks
RMS = 0.5  # of the latents: TAESD's decoder bends what is beyond 3


def principal_components(pictures: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The map (16, 192) and offset (16,) from 8x8 blocks of pictures (B, 3, H, W) to latents."""
    blocks = torch.cat([_blocks(p) for p in pictures])  # (N, 192)
    mean = blocks.mean(dim=0)
    centred = (blocks - mean).double()
    variance, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    variance = variance.flip(0)[:CHANNELS].clamp(min=1e-8)
    scale = variance**-0.25
    scale *= RMS / (scale.square() * variance).mean().sqrt()
    weight = (vectors.flip(1)[:, :CHANNELS] * scale).T.float()
    return weight, -weight @ mean


def _blocks(pictures: Tensor) -> Tensor:
    side = DOWNSAMPLING
    return rearrange(pictures, "b c (h y) (w x) -> (b h w) (c y x)", y=side, x=side)


@torch.no_grad()
def set_linear_encoder(model: TinyAutoencoder, weight: Tensor, offset: Tensor) -> None:
    """Make a model's encoder that map, rounded to bfloat16 as it is stored, and freeze it."""
    encoder = model.taesd_encoder
    for parameter in encoder.parameters():
        parameter.zero_().requires_grad_(False)
    convolution(encoder, 0).weight[:3, :, 1, 1] = torch.eye(3)
    _space_to_depth(convolution(encoder, 2).weight, 3)
    _space_to_depth(convolution(encoder, 6).weight, 12)
    mirrored, joined = convolution(encoder, 10), convolution(encoder, 14)
    last = _as_last_step(weight).bfloat16().float()  # (16, 48, 2, 2)
    mirrored.weight[:CHANNELS, :48, 1:, 1:] = last
    mirrored.weight[CHANNELS : 2 * CHANNELS, :48, 1:, 1:] = -last
    joined.weight[:, :CHANNELS, 1, 1] = torch.eye(CHANNELS)
    joined.weight[:, CHANNELS : 2 * CHANNELS, 1, 1] = -torch.eye(CHANNELS)
    bias_of(joined).copy_(offset.bfloat16().float())


def _space_to_depth(weight: Tensor, channels: int) -> None:
    """Channel (dy, dx, c) of the output is channel c of the input, dy rows and dx columns on."""
    for dy in range(2):
        for dx in range(2):
            first = (2 * dy + dx) * channels
            weight[first : first + channels, :channels, 1 + dy, 1 + dx] = torch.eye(channels)


def _as_last_step(weight: Tensor) -> Tensor:
    """The map (16, 192), columns (c, y, x) of a block, as a 2x2 convolution of 48 channels."""
    # y4 is the block's half, y2 that half's; the second space-to-depth is the outer one
    layout = "k (c y4 y2 y1 x4 x2 x1) -> k (y2 x2 y1 x1 c) y4 x4"
    return rearrange(weight, layout, c=3, y4=2, y2=2, y1=2, x4=2, x2=2, x1=2)
