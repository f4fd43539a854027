"""An LLMDiff adapter on a MODEL of the host: SD1.5 and SDXL, and what others put on them."""

from __future__ import annotations

import itertools
from pathlib import Path

from comfy.patcher_extension import WrappersMP

from ...lidit_core.errors import check
from ...lidit_core.llmdiff.config import MODES
from .adapter import open_adapter
from .attention import AddedPaths
from .sampling_texts import APPLICATION_KEY, Use
from .step import Conditions
from .unet import check_fits


def with_adapter(
    model, path: str | Path, mode: str = MODES[1], strength: float = 1.0, start=0.0, end=1.0
):
    """The MODEL with one more adapter, of which its weights know nothing.

    Args:
        start, end: the part of sampling in which it works, each 0 to 1.

    Raises:
        LiDiTError: the file is no adapter, or one for another U-Net or mode, or ``start`` is
            after ``end``, so that it would work nowhere.
    """
    check(
        start <= end,
        f"the adapter would work from {start:g} to {end:g} of the sampling, which is nowhere; "
        "expected start_percent below end_percent, each 0 to 1",
    )
    patcher, gates = open_adapter(path)
    adapter = patcher.model
    check_fits(adapter.config, model)
    adapter.check_mode(mode)
    changed = model.clone()
    key = next(
        k
        for n in itertools.count()
        if (k := f"{APPLICATION_KEY}_{n}") not in changed.additional_models
    )
    use = Use(key, adapter, mode, strength, start, end)
    changed.set_additional_models(key, [patcher])
    _put(changed, use, AddedPaths(use, gates))
    return changed


def _put(model, use: Use, paths: AddedPaths) -> None:
    """Have the host ask the adapter where it takes part."""
    conditions = Conditions(use)
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, use.key, conditions.sampling)
    model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, use.key, conditions.step)
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, use.key, paths.call)
    model.set_model_attn2_patch(paths.before)
    model.set_model_attn2_output_patch(paths.after)
