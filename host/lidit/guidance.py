"""Classifier-free guidance in a part of the sampling only."""

from __future__ import annotations

import math

import comfy.model_patcher
from comfy.patcher_extension import WrappersMP

from ...lidit_core.errors import LiDiTError

INTERVAL_KEY = "lidit_guidance_interval"


def guided_between(
    model: comfy.model_patcher.ModelPatcher, start: float, end: float
) -> comfy.model_patcher.ModelPatcher:
    """A model that is guided from ``start`` to ``end`` (shares of the sampling, 0 = noise) only.

    Outside, the negative prompt is not run at all (Kynkäänniemi et al. 2024, arXiv 2404.07724).
    """
    if not 0 <= start <= end <= 1:
        raise LiDiTError(
            f"the guidance interval is {start} to {end}; expected a start and an end in 0 to 1, "
            "the start first"
        )
    if (start, end) == (0, 1):
        return model
    schedule = model.get_model_object("model_sampling")
    highest, lowest = (float(schedule.percent_to_sigma(share)) for share in (start, end))
    if start == 0:
        highest = math.inf  # rounded, the first sigma may be larger than the schedule's end

    def predict(executor, x, sigma, *args, **kwargs):
        guider = executor.class_obj
        scale = guider.cfg
        guider.cfg = scale if lowest <= float(sigma.max()) <= highest else 1.0
        try:
            return executor(x, sigma, *args, **kwargs)
        finally:
            guider.cfg = scale

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, INTERVAL_KEY, predict)
    return model
