"""What does not learn is held in bf16 where it is computed in bf16: the same bits, half the memory.

Autocast would make such a copy of every float32 matrix for each forward pass, and keep both. Where
a recipe asks for it matrices are held in 8 bits: half of that again, and not the same bits.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from accelerate import Accelerator
from torch import nn

from ...recipe import EIGHT_BITS, Compute
from .eight_bits import hold_in_eight_bits


def holds_half(compute: Compute, mixed: bool) -> bool:
    """Whether frozen matrices are bf16, or where they are held in 8 bits the others of them.

    Args:
        mixed: whether the device computes in bf16 under autocast.
    """
    if compute.shard:  # a part that is gathered has one precision
        return False
    return compute.frozen == "bf16" or (mixed and compute.frozen in ("", *EIGHT_BITS))


def computing(accelerator: Accelerator, half: bool) -> AbstractContextManager:
    """Compute in mixed precision, as the recipe says, or as matrices held in bf16 need it."""
    if half:
        return torch.autocast(accelerator.device.type, torch.bfloat16)
    return accelerator.autocast()


def hold_frozen(learner: nn.Module, compute: Compute, half: bool) -> None:
    """Bring what does not learn into the precision that it is held in.

    Args:
        half: as `holds_half` has it.
    """
    if compute.frozen in EIGHT_BITS:
        hold_in_eight_bits(learner, compute.frozen)
    if half:
        _halve(learner)


def _halve(learner: nn.Module) -> None:
    """Turn matrices and kernels into bf16; vectors are small and stay."""
    for parameter in learner.parameters():
        if not parameter.requires_grad and parameter.ndim > 1 and parameter.is_floating_point():
            parameter.data = parameter.data.to(torch.bfloat16)
