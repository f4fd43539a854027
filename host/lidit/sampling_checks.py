"""What a sampler is about to do with a flow model, before its first step: errors and notes."""

from __future__ import annotations

from typing import Any

import comfy.model_sampling as host
from torch import Tensor

from ...lidit_core.errors import LiDiTError
from ..node_notes import note
from .schedule import check_noise_level

KEY = "lidit_sampling_checks"
FROM_NOISE = 0.9  # of sigma 1: below it, what the latent holds shows in the picture
LMS_STEPS = 20  # from which its rule of order 4 is right; at 12 a picture is in pieces
# by the function's name: samplers that add noise as for models on which it has no upper bound
FOR_EPS = {"sample_ddpm": "ddpm", "sample_lcm_upscale": "SamplerLCMUpscale"}


def checked_sampling(
    executor: Any,
    guider: Any,
    sigmas: Tensor,
    extra_args: dict,
    callback: Any,
    noise: Tensor,
    latent_image: Tensor | None = None,
    *rest: Any,
) -> Tensor:
    """The host's wrapper around a sampler's run.

    Raises:
        LiDiTError: what the sampler would draw is noise.
    """
    schedule = guider.inner_model.model_sampling
    if len(sigmas) > 1 and isinstance(schedule, host.CONST):
        function = getattr(executor.class_obj, "sampler_function", None)
        check_sampler(getattr(function, "__name__", ""), len(sigmas) - 1)
        check_noise_level(float(sigmas.max()))
        check_start(float(sigmas[0]), noise, latent_image)
    return executor(guider, sigmas, extra_args, callback, noise, latent_image, *rest)


def check_sampler(function: str, steps: int) -> None:
    """Refuse a sampler for eps models, and tell of one that needs more steps."""
    if function in FOR_EPS:
        raise LiDiTError(
            f"the sampler {FOR_EPS[function]} adds noise in the way of eps models, and this LI-DiT "
            "is a flow model, from which it draws noise alone; choose another, such as lcm or euler"
        )
    if function == "sample_lms" and steps < LMS_STEPS:
        note(
            f"the sampler lms takes {steps} steps, and its rule of order 4 draws a flow model's "
            f"pictures in pieces with less than {LMS_STEPS}; take more, or choose euler"
        )


def check_start(sigma: float, noise: Tensor, latent_image: Tensor | None) -> None:
    """Tell of an empty latent that is no place to start from with so little noise."""
    if latent_image is not None and bool(latent_image.any()):
        return
    if not bool(noise.any()):
        note(
            "the sampler is given an empty latent and no noise, of which it draws a plain area; "
            "connect noise, or the latent of an earlier sampler"
        )
    elif sigma < FROM_NOISE:
        note(
            f"the schedule begins at sigma {sigma:.2f} with an empty latent, where a flow model "
            "expects a picture with noise; set denoise to 1 or begin near sigma 1, or encode a "
            "picture"
        )
