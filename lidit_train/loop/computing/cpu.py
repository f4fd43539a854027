"""A CPU computes in float32; one with instructions for bf16 may compute in that."""

from __future__ import annotations

import logging

import torch

from ...recipe import Compute

log = logging.getLogger(__name__)

INSTRUCTIONS = ("avx512_bf16", "amx_bf16")  # those of x86; others are not known here


def computes_in_bf16(compute: Compute, device: torch.device) -> bool:
    """Tell whether this is a CPU that computes in bf16, as the recipe asks.

    Products with sums in float32 (autocast), Muon's too; weights, gradients and attention stay in
    float32.
    """
    if not compute.cpu_bf16 or device.type != "cpu":
        return False
    found = has_instructions()
    if not found:
        log.warning(
            "compute.cpu_bf16 is left out: this CPU has none of %s, and is slower in bf16 than in "
            "float32",
            ", ".join(INSTRUCTIONS),
        )
    return found


def has_instructions() -> bool:
    """Tell whether this CPU multiplies matrices of bf16 faster than those of float32."""
    names = (f"_is_{name}_supported" for name in ("avx512_bf16", "amx_tile"))
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)
