"""What does not learn is held in bf16 where it is computed in bf16: the same bits, half the memory.

Autocast would make such a copy of every float32 matrix for each forward pass, and keep both.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from accelerate import Accelerator
from torch import nn

from ...recipe import Compute


def holds_half(compute: Compute, mixed: bool) -> bool:
    """Whether frozen matrices are bf16.

    Args:
        mixed: whether the device computes in bf16 under autocast.
    """
    if compute.shard:  # a part that is gathered has one precision
        return False
    return compute.frozen == "bf16" or (mixed and not compute.frozen)


def computing(accelerator: Accelerator, half: bool) -> AbstractContextManager:
    """Mixed precision, as the recipe has it, or as what is held in bf16 needs it on any device."""
    if half:
        return torch.autocast(accelerator.device.type, torch.bfloat16)
    return accelerator.autocast()


def halve_frozen(learner: nn.Module) -> None:
    """Turn the matrices and kernels that do not learn into bf16; vectors are small and stay."""
    for parameter in learner.parameters():
        if not parameter.requires_grad and parameter.ndim > 1:
            parameter.data = parameter.data.to(torch.bfloat16)
