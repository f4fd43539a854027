"""A MODEL of the host with weights of its own, through which gradients reach its conditioning."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from comfy import model_management
from comfy.ldm.modules.attention import attention_pytorch

from ....lidit_core.errors import LiDiTError, check

OVERRIDE = "optimized_attention_override"  # the host's name for it


def check_loads_again(model: Any) -> None:
    """Refuse a MODEL that cannot be loaded a second time.

    Raises:
        LiDiTError: its loader does not know how, or the host is too old.
    """
    check(
        "force_deepcopy" in inspect.signature(model.clone).parameters,
        "this ComfyUI cannot load a model a second time, as training through it needs; update to "
        "0.33.0 or later, or train with `lidit train`",
    )
    if getattr(model, "cached_patcher_init", None) is None:
        raise LiDiTError(
            f"the loader of this model ({type(model.model).__name__}) cannot load it again, as "
            "training through it needs; load it by ComfyUI's Load Checkpoint or Load Diffusion "
            "Model"
        )


def model_anew(model: Any) -> Any:
    """A clone of a MODEL, loaded once more with its patches; call outside inference mode.

    What a node hands on was made in inference mode, which no gradient passes. The clone attends by
    torch's own attention, as SageAttention and others have no gradient.
    """
    made = model.clone(force_deepcopy=True)
    made.model.requires_grad_(False).eval()
    device = made.load_device
    if device.type != "cpu" and model_management.should_use_bf16(device):
        made.set_model_compute_dtype(torch.bfloat16)  # float16 would lose small gradients
    options = made.model_options.setdefault("transformer_options", {})
    options[OVERRIDE] = lambda _, *args, **more: attention_pytorch(*args, **more)
    return made


def name_of(model: Any) -> str:
    """The file that a MODEL was loaded from, without its folder, or its class."""
    _, args, *_ = model.cached_patcher_init
    first = args[0] if args and isinstance(args[0], str | Path) else ""
    return Path(first).name or type(model.model).__name__
