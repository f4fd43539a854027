"""What LI-DiT is trained to predict: ``flow``, ``eps`` or ``v``, and how noise is mixed in.

Time is one number in [0, 1]: 1 is noise, 0 the picture. Training draws times above 0 and a sampling
run ends at 0, where the model is not asked. The model is given t · 1000 for ``flow``, and for
``eps`` and ``v`` the schedule's index t · 1000 - 1, at least 0.
``eps`` is the paper's (Appendix A.1, DDPM); its schedule of betas is ours, that of Stable
Diffusion, which hosts use by default. ``flow`` is rectified flow.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..errors import LiDiTError

STEPS = 1000  # of the DDPM schedule; the model's timesteps run in [0, 1000] for flow too
_BETA_FIRST, _BETA_LAST = 0.00085, 0.012


@dataclass(frozen=True)
class Focus:
    """A range of times from which a share of the training draws its own, uniformly."""

    low: float  # times lie above it
    high: float  # and up to it
    share: float = 0.5  # of the samples

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise LiDiTError(
                f"the focus of training times has low={self.low} and high={self.high}; "
                "expected times with 0 <= low < high <= 1, where 1 is noise"
            )
        if not 0 <= self.share <= 1:
            raise LiDiTError(f"the focus of training times has share={self.share}; expected 0 to 1")


@lru_cache(maxsize=1)
def _log_snr_table() -> Tensor:
    betas = torch.linspace(_BETA_FIRST**0.5, _BETA_LAST**0.5, STEPS, dtype=torch.float64) ** 2
    alphas = (1 - betas).cumprod(0)
    return (alphas / (1 - alphas)).log()


def ddpm_timestep(time: Tensor) -> Tensor:
    """Time in [0, 1] to the DDPM schedule's index, as float: 0 to 999, and -1 for time 0."""
    return time * STEPS - 1


def coefficients(prediction: str, time: Tensor) -> tuple[Tensor, Tensor]:
    """(alpha, sigma) of z = alpha · x + sigma · noise at each time, shape of ``time``.

    For ``eps`` and ``v`` time 0 has the coefficients of the schedule's first index.
    """
    if prediction == "flow":
        return 1 - time, time
    on_cpu = time.cpu()  # not every device has float64
    position = ddpm_timestep(on_cpu).double().clamp(0, STEPS - 1)
    low = position.floor().long().clamp(max=STEPS - 2)
    table = _log_snr_table()
    log_snr = torch.lerp(table[low], table[low + 1], position - low)
    return log_snr.sigmoid().sqrt().to(time), (-log_snr).sigmoid().sqrt().to(time)


def model_timestep(prediction: str, time: Tensor) -> Tensor:
    """What the model is given, as hosts give it: in [0, 1000] for flow, else in [0, 999]."""
    return time * STEPS if prediction == "flow" else ddpm_timestep(time).clamp(min=0)


def add_noise(prediction: str, x: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """x, noise (B, C, H, W), time (B,) -> z (B, C, H, W)."""
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


def clean_and_noise(
    prediction: str, z: Tensor, output: Tensor, time: Tensor
) -> tuple[Tensor, Tensor]:
    """The picture and the noise that a model's output implies, (B, C, H, W) each."""
    alpha, sigma = (v[:, None, None, None] for v in coefficients(prediction, time))
    if prediction == "flow":
        return z - sigma * output, z + alpha * output
    if prediction == "eps":
        return (z - sigma * output) / alpha, output
    return alpha * z - sigma * output, sigma * z + alpha * output


def sample_time(
    prediction: str,
    count: int,
    shift: float,
    generator: torch.Generator,
    focus: Focus | None = None,
) -> Tensor:
    """Training times (count,): logit-normal for flow, uniform over the steps for eps and v.

    Then shifted; those of eps and v to the next step of the schedule. A focus replaces a share of
    them, and leaves the others as they would be without it.
    """
    if prediction == "flow":
        time = shift_time(torch.randn(count, generator=generator).sigmoid(), shift)
    else:
        time = (torch.randint(STEPS, (count,), generator=generator) + 1) / STEPS
        time = time if shift == 1 else _next_step(shift_time(time, shift))
    return time if focus is None else _focused(prediction, time, focus, generator)


def _focused(prediction: str, time: Tensor, focus: Focus, generator: torch.Generator) -> Tensor:
    """Times (count,) of which a share is drawn anew in (low, high]."""
    chosen, place = torch.rand(2, len(time), generator=generator, dtype=torch.float64)
    drawn = focus.low + (focus.high - focus.low) * (1 - place)
    drawn = drawn if prediction == "flow" else _next_step(drawn)
    return torch.where(chosen < focus.share, drawn.to(time), time)


def _next_step(time: Tensor) -> Tensor:
    """Times of the DDPM schedule, at or after the given ones."""
    return (time * STEPS).ceil().clamp(1, STEPS) / STEPS


def even_times(prediction: str, count: int) -> Tensor:
    """The middles of so many equal parts of (0, 1], (count,); for eps and v steps of DDPM."""
    times = (torch.arange(count) + 0.5) / count
    return times if prediction == "flow" else _next_step(times)


def shift_time(time: Tensor, shift: float) -> Tensor:
    """SD3's timestep shift: more of the steps, or of the training, at high noise."""
    return shift * time / (1 + (shift - 1) * time)


def sampling_times(prediction: str, steps: int, shift: float) -> Tensor:
    """Times of a sampling run, (steps + 1,), from 1 down to 0."""
    times = torch.linspace(1, 0, steps + 1)
    return shift_time(times, shift) if prediction == "flow" else times


def guided(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: scale 1 is the conditional prediction, larger goes past it."""
    return torch.lerp(unconditional, conditional, scale)
