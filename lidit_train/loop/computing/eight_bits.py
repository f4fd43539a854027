"""Matrices that do not learn, in 8 bits: each row with a scale, turned into numbers where used.

A row is what makes one output of a layer, or one token of an embedding. Its largest number becomes
the largest that int8 or float8 (e4m3) has. Autograd keeps the 8 bits for the backward pass too:
a matrix of whole numbers is there for one product at a time.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

from lidit_core.errors import LiDiTError

from ...recipe import EIGHT_BITS

INT8, FP8 = EIGHT_BITS
LARGEST = {INT8: 127.0, FP8: 448.0}
SCALE_BYTES = 4  # of a row


def to_eight_bits(weight: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """A matrix (R, …) in 8 bits, float8 as bytes, and the scales (R,) of its rows.

    Bytes are what every collective of torch.distributed knows. Scales are numbers that bf16 has, so
    that turning a row back into bf16 rounds once.
    """
    rows = weight.detach().float().flatten(1)
    scale = (rows.abs().amax(1) / LARGEST[kind]).to(torch.bfloat16).float()
    rows = (rows / torch.where(scale > 0, scale, 1.0)[:, None]).reshape(weight.shape)
    rows = rows.clamp(-LARGEST[kind], LARGEST[kind])
    if kind == INT8:
        return rows.round().to(torch.int8), scale
    return rows.to(torch.float8_e4m3fn).view(torch.uint8), scale


def whole(stored: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The numbers of a matrix that `to_eight_bits` has stored."""
    numbers = stored.view(torch.float8_e4m3fn) if stored.dtype == torch.uint8 else stored
    return numbers.to(dtype) * scale.to(dtype).view(-1, *(1,) * (stored.ndim - 1))


def check_device(kind: str, device: torch.device) -> None:
    """Refuse 8 bits that a device cannot read."""
    try:
        stored, scale = to_eight_bits(torch.ones(1, 1), kind)
        whole(stored.to(device), scale.to(device), torch.bfloat16)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        other = INT8 if kind == FP8 else "bf16"
        raise LiDiTError(
            f"the recipe has compute.frozen={kind}, and {device.type} cannot turn it into numbers "
            f"({str(error).splitlines()[0]}); set compute.frozen={other}"
        ) from error


def _computed_in(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """The precision of autocast where it is on, else this one."""
    if torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return dtype


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, stored: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(stored, scale)
        return F.linear(x, whole(stored, scale, _computed_in(x.device, x.dtype)), bias)

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        (g,) = gradients
        stored, scale = ctx.saved_tensors
        return g @ whole(stored, scale, g.dtype), None, None, None


class _Conv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, stored: Tensor, scale: Tensor, bias: Tensor | None, places):
        ctx.save_for_backward(stored, scale)
        ctx.shape, ctx.places = x.shape, places
        return F.conv2d(x, whole(stored, scale, _computed_in(x.device, x.dtype)), bias, *places)

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        (g,) = gradients
        stored, scale = ctx.saved_tensors
        weight = whole(stored, scale, g.dtype)
        return conv2d_input(ctx.shape, weight, g, *ctx.places), None, None, None, None


class _EightBits(nn.Module):
    """What the 8-bit layers share; `weight` is the whole matrix, for whoever else reads it."""

    stored: Tensor
    scale: Tensor

    @property
    def weight(self) -> Tensor:
        dtype = _computed_in(self.stored.device, torch.float32)
        return whole(self.stored, self.scale, dtype)


class EightBitLinear(_EightBits, nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return _Linear.apply(input, self.stored, self.scale, self.bias)


class EightBitConv2d(_EightBits, nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        places = self.stride, self.padding, self.dilation, self.groups
        return _Conv2d.apply(input, self.stored, self.scale, self.bias, places)


class EightBitEmbedding(_EightBits, nn.Embedding):
    def forward(self, input: Tensor) -> Tensor:
        dtype = _computed_in(self.stored.device, torch.float32)
        rows = whole(self.stored[input].flatten(0, -2), self.scale[input].flatten(), dtype)
        return rows.view(*input.shape, -1)


LAYERS = {nn.Linear: EightBitLinear, nn.Conv2d: EightBitConv2d, nn.Embedding: EightBitEmbedding}


def frozen_layers(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of a module whose matrix may be held in 8 bits: nothing of them learns."""
    for layer in module.modules():
        if type(layer) not in LAYERS or any(p.requires_grad for p in layer.parameters()):
            continue
        if isinstance(layer, nn.Conv2d):
            if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
                continue
        if isinstance(layer, nn.Embedding) and layer.max_norm is not None:
            continue
        yield layer


def hold_in_eight_bits(module: nn.Module, kind: str) -> None:
    """Turn the matrices of such layers into 8 bits, layer by layer; their hooks stay."""
    for layer in list(frozen_layers(module)):
        stored, scale = to_eight_bits(layer.get_parameter("weight"), kind)
        del layer.weight
        layer.__class__ = LAYERS[type(layer)]
        layer.stored = nn.Parameter(stored, requires_grad=False)
        layer.scale = nn.Parameter(scale, requires_grad=False)


def bytes_in_eight_bits(module: nn.Module, half: bool) -> int:
    """The bytes that the frozen weights of a module would take with matrices in 8 bits.

    Args:
        half: whether other matrices are in bf16; vectors never are.
    """
    layers = [layer.get_parameter("weight") for layer in frozen_layers(module)]
    held = {id(weight) for weight in layers}
    rest = [p for p in module.parameters() if not p.requires_grad and id(p) not in held]
    return sum(w.numel() + SCALE_BYTES * len(w) for w in layers) + sum(
        p.numel() * (2 if half and p.ndim > 1 else 4) for p in rest
    )
