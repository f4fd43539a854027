"""Normalises an autoencoder's latents for the model and back: one shift and scale a channel."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..errors import check, shown
from .config import LatentFormat


def _per_channel(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=like.device).view(-1, 1, 1)


def _check(latents: Tensor, format: LatentFormat) -> None:
    check(
        isinstance(format, LatentFormat),
        f"format is {shown(format)}; expected a LatentFormat, as model.config.latent",
    )
    good = isinstance(latents, Tensor) and latents.ndim > 2
    check(
        good and latents.shape[-3] == format.channels and not latents.is_complex(),
        f"latents are {shown(latents)}; expected a tensor of (…, {format.channels}, height / "
        f"{format.downsampling}, width / {format.downsampling}), as the autoencoder of "
        f"{format.name} and a LI-DiT that paints in it give them",
    )


def normalise(latents: Tensor, format: LatentFormat) -> Tensor:
    """The autoencoder's (…, C, H, W) to the model's, mean 0 and deviation 1 over the data, float32.

    Raises:
        LiDiTError: it is no latent of this format.
    """
    _check(latents, format)
    return (latents.float() - _per_channel(format.mean, latents)) / _per_channel(
        format.std, latents
    )


def denormalise(latents: Tensor, format: LatentFormat) -> Tensor:
    """The model's latents (…, C, H, W) to the autoencoder's, float32: the inverse of `normalise`.

    Raises:
        LiDiTError: it is no latent of this format.
    """
    _check(latents, format)
    return latents.float() * _per_channel(format.std, latents) + _per_channel(format.mean, latents)


def with_colours_of(other: LatentFormat, format: LatentFormat) -> LatentFormat:
    """The format with the preview colours of another one of the same autoencoder.

    They are translated from the other's scale and shift of each channel to its own.
    """
    scale, std, shift, mean = (
        torch.tensor(values, dtype=torch.float64).expand(format.channels)
        for values in (other.std, format.std, other.mean, format.mean)
    )
    factors = torch.tensor(other.rgb_factors, dtype=torch.float64) / scale[:, None]
    bias = torch.tensor(other.rgb_bias, dtype=torch.float64) + (mean - shift) @ factors
    rows = tuple(tuple(row) for row in (factors * std[:, None]).tolist())
    return replace(format, rgb_factors=rows, rgb_bias=tuple(bias.tolist()))
