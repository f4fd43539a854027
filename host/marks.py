"""A mark in an entry's first tensor of what lies beside it, so that a mix is known for one.

Nodes of the host mix, join and scale the first tensors of CONDITIONING and leave the rest as it
was. Where two prompts have equal first tensors and differ beside them, their average equals both,
and nothing would tell that it is one. So the lowest bit of each number says what lies beside it,
and of a zero the sign, which no model can see: it is a ten millionth of the number in float32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

from ..lidit_core.errors import check

SAME_SIZE = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def mark_of(tensors: Iterable[Tensor], more: object = "") -> str:
    """A short text that differs where the tensors, or what is written beside them, do.

    Args:
        more: plain data, of which the text counts.
    """
    seen = hashlib.sha256(repr(more).encode())
    for tensor in tensors:
        flat = tensor.detach().cpu().contiguous().flatten()
        seen.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
        seen.update(flat.view(torch.uint8).numpy().data)
    return seen.hexdigest()


def marked(tensor: Tensor, mark: str) -> Tensor:
    """A copy of floating point numbers that holds the mark."""
    whole = SAME_SIZE.get(tensor.element_size())
    if whole is None or not tensor.is_floating_point():
        return tensor.clone()
    bits = _bits(mark, tensor.numel()).view(tensor.shape).to(tensor.device)
    numbers = tensor.contiguous().view(whole)
    lowest = (numbers & ~1) | bits.to(whole)
    signed = torch.where(bits.bool(), -0.0, 0.0).to(tensor.dtype)
    return torch.where(tensor == 0, signed, lowest.view(tensor.dtype))


def _bits(mark: str, count: int) -> Tensor:
    """Draw so many bits by a text; the same on every machine."""
    drawn = hashlib.shake_256(mark.encode()).digest(count // 8 + 1)
    octets = torch.frombuffer(bytearray(drawn), dtype=torch.uint8)
    return ((octets[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1).flatten()[:count]


def holds(tensor: Tensor, own: Tensor, mark: str) -> bool:
    """Whether a tensor, perhaps moved or cast, is still the one that was marked."""
    return same_numbers(tensor, marked(own, mark).to(tensor))


def same_numbers(tensor: Tensor, other: Tensor) -> bool:
    """Whether two are equal with their signs, those of zeros too; both on one device."""
    if tensor.shape != other.shape:
        return False
    # float8 cannot be compared, and not every device has float64
    wide, others = (x if x.dtype == torch.float64 else x.float() for x in (tensor, other))
    return torch.equal(wide, others) and torch.equal(torch.signbit(wide), torch.signbit(others))


def check_first(tensor: Tensor | None) -> None:
    """Refuse an entry's first tensor that is not of real numbers, which no model could read.

    Raises:
        LiDiTError: it holds integers, complex numbers, or none that can be seen.
    """
    if tensor is None:
        return
    seen = tensor.layout == torch.strided and tensor.device.type != "meta"
    check(
        seen and not tensor.is_nested and tensor.is_floating_point(),
        f"a node made this conditioning's first tensor one of {tensor.dtype} ({tensor.layout}, on "
        f"{tensor.device}); expected floating point numbers, as text encoders give them: encode "
        "the prompt again",
    )
