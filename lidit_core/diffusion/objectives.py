"""What LI-DiT is trained to predict: ``flow``, ``eps`` or ``v``, and how noise is mixed in.

Time is one number in [0, 1]: 1 is noise, 0 the picture; `times.py` makes them. The model is given
t · 1000 for ``flow``, and for ``eps`` and ``v`` the schedule's index t · 1000 - 1, at least 0.
``eps`` is the paper's (Appendix A.1, DDPM); its schedule of betas is ours, that of Stable
Diffusion, which hosts use by default. ``flow`` is rectified flow.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..errors import check, shown
from ..model.config import PREDICTIONS

STEPS = 1000  # of the DDPM schedule; the model's timesteps run in [0, 1000] for flow too
_BETA_FIRST, _BETA_LAST = 0.00085, 0.012


@lru_cache(maxsize=None)
def _log_snr_table(device: torch.device) -> Tensor:
    """The same numbers on every device, as they are computed on the CPU."""
    betas = torch.linspace(_BETA_FIRST**0.5, _BETA_LAST**0.5, STEPS, dtype=torch.float64) ** 2
    alphas = (1 - betas).cumprod(0)
    return (alphas / (1 - alphas)).log().to(device)


def ddpm_timestep(time: Tensor) -> Tensor:
    """Time in [0, 1] to the DDPM schedule's index, as float: 0 to 999, and -1 for time 0."""
    return time * STEPS - 1


def coefficients(prediction: str, time: Tensor) -> tuple[Tensor, Tensor]:
    """The (alpha, sigma) of z = alpha · x + sigma · noise at each time, in the shape of ``time``.

    For ``eps`` and ``v`` time 0 has the coefficients of the schedule's first index.
    """
    if prediction == "flow":
        return 1 - time, time
    precise = time.cpu() if time.device.type == "mps" else time  # which has no float64
    position = ddpm_timestep(precise).double().clamp(0, STEPS - 1)
    low = position.floor().long().clamp(max=STEPS - 2)
    table = _log_snr_table(position.device)
    log_snr = torch.lerp(table[low], table[low + 1], position - low)
    return log_snr.sigmoid().sqrt().to(time), (-log_snr).sigmoid().sqrt().to(time)


def model_timestep(prediction: str, time: Tensor) -> Tensor:
    """What the model is given, as hosts give it: in [0, 1000] for flow, else in [0, 999]."""
    return time * STEPS if prediction == "flow" else ddpm_timestep(time).clamp(min=0)


def _check(prediction: str, x: Tensor, noise: Tensor, time: Tensor) -> None:
    check(
        prediction in PREDICTIONS,
        f"prediction is {shown(prediction)}; expected {', '.join(PREDICTIONS)}, as "
        "model.config.prediction",
    )
    tensors = all(isinstance(given, Tensor) for given in (x, noise, time))
    check(
        tensors and x.ndim == 4 and x.shape == noise.shape and x.shape[:1] == time.shape,
        f"noise {shown(noise)} is to be mixed into {shown(x)} at {shown(time)}; expected tensors "
        "(B, C, H, W) twice and (B,), the time in [0, 1]: torch.full((len(x),), 0.6)",
    )


def add_noise(prediction: str, x: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """Clean x and noise (B, C, H, W), mixed at each sample's time (B,) in [0, 1], 1 = noise.

    Args:
        prediction: ``flow``, ``eps`` or ``v``, as ``model.config.prediction``.
        x: normalised latents.
    Raises:
        LiDiTError: there is no such prediction, or the shapes do not fit together.
    """
    _check(prediction, x, noise, time)
    alpha, sigma = (v[:, None, None, None] for v in coefficients(prediction, time))
    return alpha * x + sigma * noise


def target(prediction: str, x: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """What the model should say, (B, C, H, W)."""
    if prediction == "flow":
        return noise - x
    if prediction == "eps":
        return noise
    alpha, sigma = (v[:, None, None, None] for v in coefficients(prediction, time))
    return alpha * noise - sigma * x


@dataclass(frozen=True, eq=False)
class Noised:
    """A noisy batch, as a model is trained on it."""

    z: Tensor  # (B, C, H, W): what the model is given
    timestep: Tensor  # (B,): in [0, 1000], with it
    target: Tensor  # (B, C, H, W): what it should say


def noised(prediction: str, x: Tensor, noise: Tensor, time: Tensor) -> Noised:
    """Clean x and noise (B, C, H, W), mixed at each sample's time (B,) in (0, 1]."""
    return Noised(
        add_noise(prediction, x, noise, time),
        model_timestep(prediction, time),
        target(prediction, x, noise, time),
    )


def clean_and_noise(
    prediction: str, z: Tensor, output: Tensor, time: Tensor
) -> tuple[Tensor, Tensor]:
    """The picture and the noise that a model's output implies, (B, C, H, W) each.

    Args:
        time: of each sample (B,), or of all (), then on any device.
    """
    alpha, sigma = coefficients(prediction, time)
    if time.ndim:
        alpha, sigma = alpha[:, None, None, None], sigma[:, None, None, None]
    if prediction == "flow":
        return z - sigma * output, z + alpha * output
    if prediction == "eps":
        return (z - sigma * output) / alpha, output
    return alpha * z - sigma * output, sigma * z + alpha * output


def euler_step(
    prediction: str, z: Tensor, output: Tensor, time: Tensor, following: Tensor
) -> Tensor:
    """Mix the implied picture and noise anew for the next time (DDIM; for flow, Euler).

    Args:
        z, output: (B, C, H, W), and what a model said of it.
        time, following: of this step and the next, () each, on the CPU or where z is.
    """
    clean, noise = clean_and_noise(prediction, z, output, time)
    if following == 0:
        return clean
    alpha, sigma = coefficients(prediction, following)
    return alpha * clean + sigma * noise


def guided(conditional: Tensor, unconditional: Tensor, scale: float | Tensor) -> Tensor:
    """Classifier-free guidance: scale 1 is the conditional prediction, larger goes past it."""
    return torch.lerp(unconditional, conditional, scale)
