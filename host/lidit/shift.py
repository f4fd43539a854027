"""The shift of a flow model whose shift depends on the size of the picture."""

from __future__ import annotations

import math
from typing import Any

import comfy.model_patcher

from ...lidit_core.model.config import LiDiTConfig
from ..node_notes import note


def shifted_for(
    model: comfy.model_patcher.ModelPatcher, config: LiDiTConfig, samples: Any
) -> comfy.model_patcher.ModelPatcher:
    """A model whose schedule is that of a latent's size; one that a node has set stays as it is.

    Args:
        samples: the latent (B, C, h, w).
    """
    own = model.model.own_sampling[0]
    shift = wanted_shift(config, samples)
    if shift is None or model.get_model_object("model_sampling") is not own:
        return model
    shifted = model.clone()
    sampling = type(own)(model.model.model_config)
    sampling.set_parameters(shift=shift, multiplier=own.multiplier)
    shifted.add_object_patch("model_sampling", sampling)
    return shifted


def tell_other_shift(config: LiDiTConfig, shift: float, samples: Any) -> None:
    """Tell of a latent for whose size the model's own schedule is not made.

    ComfyUI makes a schedule before it knows of the latent.
    """
    wanted = wanted_shift(config, samples)
    if wanted is not None and not math.isclose(wanted, shift, rel_tol=1e-2):
        note(
            f"the schedule's shift is {shift:.3g}, for this model's native size, and for the "
            f"latent's it would be {wanted:.3g}; use LI-DiT Sampler, which sets it, or "
            f"ModelSamplingSD3 with shift {wanted:.3g}"
        )


def wanted_shift(config: LiDiTConfig, samples: Any) -> float | None:
    """The shift at a latent's size (B, C, h, w); None where it is the same at all sizes."""
    if not config.shifts:
        return None
    height, width = (side * config.latent.downsampling for side in samples.shape[-2:])
    return config.shift_at(width, height)
