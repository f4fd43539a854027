"""A tiny autoencoder: 8x downsampling, 16 channels, in the layout of TAESD.

Hosts that know TAESD (ComfyUI: ``taesd_decoder.1.weight`` in the file) load its files as they
are, so the keys and shapes are fixed. A block whose last convolution is zero computes just its
ReLU; such blocks are skipped, which lets a light autoencoder live in the standard layout.
"""

from __future__ import annotations

from typing import Sequence, cast

import torch
from torch import Tensor, nn

DOWNSAMPLING = 8  # picture pixels per latent pixel, each side
CHANNELS = 16  # latent channels
WIDTH = 64  # feature channels throughout, fixed by the layout


def _conv(n_in: int, n_out: int, **options) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, 3, padding=1, **options)


def convolution(layers: nn.Sequential, index: int) -> nn.Conv2d:
    """The layer at a place where the layout has a convolution."""
    return cast(nn.Conv2d, layers[index])


def bias_of(layer: nn.Conv2d) -> nn.Parameter:
    """The bias (C,) of a convolution that has one in the layout."""
    return cast(nn.Parameter, layer.bias)


class _Clamp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class ResidualBlock(nn.Module):
    """The ReLU of its input plus three convolutions with ReLUs between."""

    def __init__(self) -> None:
        super().__init__()
        conv = [_conv(WIDTH, WIDTH) for _ in range(3)]
        self.conv = nn.Sequential(conv[0], nn.ReLU(), conv[1], nn.ReLU(), conv[2])
        self.bypassed = False

    def bypass(self) -> None:
        """Make this block its ReLU, for good: zero weights that are not trained."""
        self.bypassed = True
        for parameter in self.parameters():
            nn.init.zeros_(parameter).requires_grad_(False)

    def take_part(self) -> None:
        """Compute, and be trained, with the weights that there are; zeros give the ReLU still."""
        self.bypassed = False
        self.requires_grad_(True)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x if self.bypassed else self.conv(x) + x)


def _stage(blocks: int, *before: nn.Module) -> list[nn.Module]:
    return [*before, *(ResidualBlock() for _ in range(blocks))]


def _down() -> nn.Conv2d:
    return _conv(WIDTH, WIDTH, stride=2, bias=False)


def _up() -> tuple[nn.Module, nn.Module]:
    return nn.Upsample(scale_factor=2), _conv(WIDTH, WIDTH, bias=False)


class TinyAutoencoder(nn.Module):
    """Pictures (B, 3, H, W) in [0, 1] <-> latents (B, 16, H/8, W/8); H and W multiples of 8.

    Args:
        light: names of blocks to bypass, as ``encoder.1`` or ``decoder.18``.
    """

    def __init__(self, light: Sequence[str] = ()) -> None:
        super().__init__()
        self.taesd_encoder = nn.Sequential(
            *_stage(1, _conv(3, WIDTH)),
            *_stage(3, _down()),
            *_stage(3, _down()),
            *_stage(3, _down()),
            _conv(WIDTH, CHANNELS),
        )
        self.taesd_decoder = nn.Sequential(
            *_stage(3, _Clamp(), _conv(CHANNELS, WIDTH), nn.ReLU()),
            *_stage(3, *_up()),
            *_stage(3, *_up()),
            *_stage(1, *_up()),
            _conv(WIDTH, 3),
        )
        self.vae_scale = nn.Parameter(torch.tensor(1.0), requires_grad=False)
        self.vae_shift = nn.Parameter(torch.tensor(0.0), requires_grad=False)
        for name in light:
            cast(ResidualBlock, self.get_submodule(f"taesd_{name}")).bypass()

    @torch.no_grad()
    def initialise(self) -> "TinyAutoencoder":
        """Weights before training: He's, with each block near its ReLU."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.weight.requires_grad:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for block in self.modules():
            if isinstance(block, ResidualBlock) and not block.bypassed:
                convolution(block.conv, -1).weight.mul_(0.2)
        last = convolution(self.taesd_decoder, -1)
        last.weight.mul_(0.1)
        bias_of(last).fill_(0.5)
        return self

    def encode(self, pictures: Tensor) -> Tensor:
        """Encode pictures (B, 3, H, W) in [0, 1] as latents (B, 16, H/8, W/8), not normalised."""
        return self.taesd_encoder(pictures) / self.vae_scale + self.vae_shift

    def decode(self, latents: Tensor) -> Tensor:
        """The inverse of `encode`, up to what it loses; in [0, 1]."""
        return self.taesd_decoder((latents - self.vae_shift) * self.vae_scale).clamp(0, 1)

    def skip_zero_blocks(self) -> "TinyAutoencoder":
        """Bypass the blocks that a loaded state dict left at zero."""
        for block in self.modules():
            if isinstance(block, ResidualBlock) and not convolution(block.conv, -1).weight.any():
                block.bypass()
        return self
