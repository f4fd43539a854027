"""Kinds of numbers that a LI-DiT computes in, by the names of options and recipes.

Whoever imports this file does not thereby load PyTorch, so that a command line may list the names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import check, first_line, shown

if TYPE_CHECKING:
    import torch

DTYPES = {"float32": "float32", "bf16": "bfloat16", "float16": "float16"}  # with PyTorch's names
DEFAULT = "float32"


def torch_dtype(name: str) -> torch.dtype:
    """PyTorch's dtype of a name in `DTYPES`."""
    import torch

    return getattr(torch, DTYPES[name])


def check_dtype(dtype: torch.dtype, device: str | None = None) -> None:
    """Refuse what a LI-DiT does not compute in, anywhere or on one device.

    Args:
        device: as PyTorch names it; it is there.
    Raises:
        LiDiTError: it is no dtype of `DTYPES`, or one that the device lacks.
    """
    import torch

    check(
        any(dtype is torch_dtype(name) for name in DTYPES),
        f"dtype is {shown(dtype)}; expected torch.float32, torch.bfloat16 or torch.float16",
    )
    if device is None or dtype is torch_dtype(DEFAULT):
        return
    fault = ""
    try:
        torch.zeros(1, dtype=dtype, device=device)
    except (RuntimeError, TypeError) as error:
        fault = first_line(error)
    check(
        not fault,
        f"the device {device} does not compute in {dtype} ({fault}); expected torch.float32 there, "
        "so leave dtype out, or choose another device",
    )
