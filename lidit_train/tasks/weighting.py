"""How a sample counts by its noise, and a number by its error; see `lidit_train.recipe.Loss`."""

from __future__ import annotations

import torch
from torch import Tensor

from lidit_core.diffusion.objectives import coefficients

from ..recipe import Loss


def sample_weights(loss: Loss, prediction: str, time: Tensor) -> Tensor:
    """The weights (B,) of squared errors on the objective's target, at times (B,) in (0, 1].

    They are written without a division by a number that may be 0: flow has sigma 0 at no time of
    training, and alpha 0 at time 1, where both weightings are 0.
    """
    alpha, sigma = coefficients(prediction, time)
    if loss.weighting == "min-snr":
        weights = torch.minimum(alpha.square(), loss.gamma * sigma.square())
    elif loss.weighting == "debiased":
        weights = alpha * sigma
    else:
        return torch.ones_like(time)
    return weights / alpha.square() if prediction == "eps" else weights


def element_errors(
    loss: Loss, prediction: str, time: Tensor, output: Tensor, wanted: Tensor
) -> Tensor:
    """The errors (B, C, H, W) of a prediction; all are the squared one where it is small."""
    difference = output - wanted
    if loss.error == "squared":
        return difference.square()
    delta = deltas(loss, prediction, time)[:, None, None, None]
    if loss.error == "pseudo-huber":
        # 2 delta (sqrt(d^2 + delta^2) - delta), without a difference of near numbers
        square = difference.square()
        return 2 * delta * square / ((square + delta.square()).sqrt() + delta)
    size = difference.abs()
    return torch.where(size <= delta, size.square(), delta * (2 * size - delta))


def deltas(loss: Loss, prediction: str, time: Tensor) -> Tensor:
    """The error (B,) from which on a number counts in a straight line, by time."""
    if loss.delta_schedule == "constant":
        return torch.full_like(time, loss.delta)
    if loss.delta_schedule == "exponential":
        return loss.delta**time
    alpha, sigma = coefficients(prediction, time)
    return (1 - loss.delta) * (alpha / (alpha + sigma)).square() + loss.delta
