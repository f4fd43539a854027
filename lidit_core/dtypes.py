"""Kinds of numbers by the names that options and recipes have for them.

Whoever imports this file does not thereby load PyTorch, so that a command line may list the names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

DTYPES = {"float32": "float32", "bf16": "bfloat16"}  # with PyTorch's names


def torch_dtype(name: str) -> torch.dtype:
    """PyTorch's dtype of a name in `DTYPES`."""
    import torch

    return getattr(torch, DTYPES[name])
