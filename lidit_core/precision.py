"""Products in the precision of their numbers, where mixed precision would round them.

Autocast casts the inputs of matrix products, `@` and `einsum` among them, whatever dtype they have;
`x.float()` before one does not keep it in float32.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

WITH_AUTOCAST = ("cpu", "cuda", "mps", "xpu")  # types of device


def without_autocast(device: torch.device) -> AbstractContextManager:
    """A context in which products on this device are computed in the dtype of their inputs."""
    known = device.type in WITH_AUTOCAST
    return torch.autocast(device.type, enabled=False) if known else nullcontext()
