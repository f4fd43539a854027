"""Between an autoencoder's latents and those that the model sees: one shift and scale a channel."""

from __future__ import annotations

import torch
from torch import Tensor

from .config import LatentFormat


def _per_channel(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=like.device).view(-1, 1, 1)


def normalise(latents: Tensor, format: LatentFormat) -> Tensor:
    """The autoencoder's (…, C, H, W) to the model's, mean 0 and deviation 1 over the data."""
    return (latents.float() - _per_channel(format.mean, latents)) / _per_channel(
        format.std, latents
    )


def denormalise(latents: Tensor, format: LatentFormat) -> Tensor:
    """The inverse of ``normalise``."""
    return latents.float() * _per_channel(format.std, latents) + _per_channel(format.mean, latents)
