"""The loss that all tasks share: denoising, by the objective of the model that is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from lidit_core.diffusion.objectives import noised

from ..batch import Batch
from ..recipe import SQUARED, Loss
from .weighting import element_errors, sample_weights


@dataclass(frozen=True, eq=False)
class Denoised:
    """What a model makes of a noisy batch."""

    output: Tensor  # (B, C, H, W) float32: its prediction
    errors: Tensor  # (B,): each sample's mean squared error, whatever the loss
    losses: Tensor  # (B,): each sample's loss
    weights: Tensor | None = None  # (B,): by its noise, which are in the losses; None = all 1


def denoise(
    prediction: str,
    batch: Batch,
    predict: Callable[[Tensor, Tensor], Tensor],
    loss: Loss = SQUARED,
) -> Denoised:
    """Noise a batch and let a model predict the objective's target.

    In every error a latent pixel has the weight that the batch gives it.

    Args:
        prediction: the objective, "flow", "eps" or "v".
        predict: the model: noisy latents (B, C, H, W) and timesteps (B,) in [0, 1000].
    """
    made = noised(prediction, batch.x, batch.noise, batch.time)
    output = predict(made.z, made.timestep).float()
    errors = batch.mean(F.mse_loss(output, made.target, reduction="none"))
    losses, weights = errors, None
    if loss.error != "squared":
        losses = batch.mean(element_errors(loss, prediction, batch.time, output, made.target))
    if loss.weighting != "none":
        weights = sample_weights(loss, prediction, batch.time)
        losses = losses * weights
    return Denoised(output, errors, losses, weights)
