"""The loss that all tasks share: denoising, by the objective of the model that is trained."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from lidit_core.diffusion.objectives import add_noise, model_timestep, target

from ..batch import Batch


def denoise(
    prediction: str, batch: Batch, predict: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Noise a batch and let a model predict the objective's target.

    Args:
        prediction: the objective, "flow", "eps" or "v".
        predict: the model: noisy latents (B, C, H, W) and timesteps (B,) in [0, 1000].
    Returns:
        The prediction (B, C, H, W) float32, and each sample's mean squared error (B,), in which a
        latent pixel has the weight that the batch gives it.
    """
    z = add_noise(prediction, batch.x, batch.noise, batch.time)
    output = predict(z, model_timestep(prediction, batch.time)).float()
    wanted = target(prediction, batch.x, batch.noise, batch.time)
    return output, batch.mean(F.mse_loss(output, wanted, reduction="none"))
