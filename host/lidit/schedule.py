"""Schedules of noise that nodes set on a MODEL: which fit, and their time in LI-DiT's unit."""

from __future__ import annotations

from typing import Protocol

import comfy.model_sampling as host
import torch
from torch import Tensor

from ...lidit_core.errors import LiDiTError

ROUNDED = 1e-3  # of a sigma, in bfloat16 at most
LAST_TIMESTEP = 1000.0  # pure noise, as every LI-DiT was trained
# by what a LI-DiT predicts: how the host must read that, and what only looks like it
READ_AS = {
    "flow": (host.CONST, getattr(host, "IMG_TO_IMG_FLOW", ())),
    "eps": (host.EPS, (host.V_PREDICTION, host.X0)),
    "v": (host.V_PREDICTION, host.EDM),
}
REMEDY = {
    "flow": "take that node out, or use ModelSamplingSD3 to change its shift",
    "eps": "take that node out, or choose eps in it",
    "v": "take that node out, or choose v_prediction in it",
}


class NoiseSchedule(Protocol):
    """The host's `model_sampling`."""

    def timestep(self, sigma: Tensor) -> Tensor: ...

    def sigma(self, timestep: Tensor) -> Tensor: ...


def check_prediction(sampling: NoiseSchedule, prediction: str) -> None:
    """Refuse a schedule under which the host reads the model's output as something else."""
    kind, lookalikes = READ_AS[prediction]
    if isinstance(sampling, kind) and not isinstance(sampling, lookalikes):
        return
    bases = ", ".join(k.__name__ for k in type(sampling).__mro__[1:] if issubclass(k, _KINDS))
    raise LiDiTError(
        f"a node gave the model a schedule for models that predict otherwise ({bases}); this "
        f"LI-DiT predicts {prediction}: {REMEDY[prediction]}"
    )


_KINDS = (host.CONST, host.EPS, host.COSMOS_RFLOW)


def check_noise_level(sigma: float) -> None:
    """Refuse a flow's sigma above 1, which is pure noise."""
    if sigma > 1 + ROUNDED:
        raise LiDiTError(
            f"the schedule is at sigma {sigma:.4g}, and this LI-DiT is a flow model, whose "
            "pure noise is sigma 1; such schedules (AYS, GITS, Karras, Exponential, SD Turbo and "
            "others with a sigma range) are for eps models: use BasicScheduler or KSampler"
        )


def check_finite(latent: Tensor, dtype: torch.dtype) -> None:
    """Refuse a sampled latent with a number in it that is not finite.

    Args:
        dtype: what the model computes in.
    """
    strange = int((~latent.isfinite()).sum())
    if strange and dtype == torch.float16:
        raise LiDiTError(
            f"the sampler ended with {strange} of {latent.numel()} numbers that are not finite; "
            "the model computes in float16, which does not hold all that a LI-DiT's blocks reach: "
            "choose bf16 or fp32 in ModelComputeDtype, or start ComfyUI without an option for fp16"
        )
    if strange:
        raise LiDiTError(
            f"the sampler ended with {strange} of {latent.numel()} numbers that are not finite, "
            "which no VAE can show; a schedule of a flow model that ends at sigma 1 does so "
            "(Flip Sigmas, Split Sigmas at step 0), or weights or a guidance that are far too large"
        )


def model_timestep(
    sampling: NoiseSchedule, timestep: Tensor, own: NoiseSchedule, levels_known: bool = False
) -> Tensor:
    """Translate a node's timestep (B,), whatever it counts in, to LI-DiT's, 0 to 1000.

    Args:
        sampling: the schedule that is used, the checkpoint's own or a node's.
        own: the checkpoint's own.
        levels_known: whether all of a flow's sigmas were looked at before the first step; a look
            at each would make every step wait for the device.
    """
    if isinstance(sampling, host.CONST):
        unit = sampling.timestep(torch.ones_like(timestep))  # of pure noise: 1 or 1000
        ours = timestep * (LAST_TIMESTEP / unit)
        if not levels_known:
            check_noise_level(float(ours.max()) / LAST_TIMESTEP)
        return ours
    steps = isinstance(sampling, host.ModelSamplingDiscrete)
    if steps and not isinstance(sampling, host.StableCascadeSampling):
        return timestep
    return own.timestep(sampling.sigma(timestep)).to(timestep.dtype)
