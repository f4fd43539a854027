"""What a checkpoint says of its latents: their statistics, and how to show them at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lidit_core.model.config import LatentFormat, LiDiTConfig
from lidit_core.model.latents import normalise

Decode = Callable[[Tensor], Tensor]  # latents (B, C, h, w) -> pictures (B, 3, H, W) in [0, 1]
PICTURES = 200  # that preview factors are fitted to


def measured_format(latents: Sequence[Tensor], base: LatentFormat) -> LatentFormat:
    """The latent format with each channel's mean, and the deviation of all, over (C, h, w) each."""
    values = torch.cat([x.double().flatten(1) for x in latents], dim=1)  # (C, N)
    mean = values.mean(1)
    std = (values - mean[:, None]).square().mean().sqrt()
    return replace(base, mean=tuple(round(float(v), 4) for v in mean), std=(round(float(std), 4),))


@torch.no_grad()
def with_preview(config: LiDiTConfig, decode: Decode, latents: Sequence[Tensor]) -> LiDiTConfig:
    """The configuration with preview factors: least squares from latents to their mean colours.

    In float64, so that no rounding of a computation reaches the last digit that is kept, and equal
    runs end in files of equal bytes.
    """
    x, y = [], []
    for one in latents[:PICTURES]:
        shown = decode(one[None].float()).double().cpu()
        colours = 2 * F.avg_pool2d(shown, config.latent.downsampling) - 1
        x.append(normalise(one[None], config.latent).double().flatten(2)[0].T)
        y.append(colours.flatten(2)[0].T)
    fit = torch.linalg.lstsq(F.pad(torch.cat(x), (0, 1), value=1.0), torch.cat(y)).solution
    rows = tuple(tuple(round(float(v), 4) for v in row) for row in fit)  # (channels + 1, 3)
    return replace(config, latent=replace(config.latent, rgb_factors=rows[:-1], rgb_bias=rows[-1]))
