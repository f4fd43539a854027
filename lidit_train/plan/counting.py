"""Counts what a step costs: torch runs it on the meta device, where nothing is computed.

Operations are those that `FlopCounterMode` knows: products, convolutions and attention, 2 for each
multiplication and addition. Memory is what autograd saves for the backward pass, weights left out.
Attention counts as the fused kernel of a GPU, which computes its scores again in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode

META = torch.device("meta")
LOWERED = (F.linear, F.conv2d, torch.einsum, torch.matmul, Tensor.matmul, Tensor.__matmul__)
KEPT_WHOLE = (F.layer_norm, F.group_norm, F.rms_norm, F.cross_entropy)
# by autocast: the first in bfloat16, like attention, the others in float32


@dataclass(frozen=True)
class Cost:
    """What a forward and a backward pass take."""

    forward: int = 0  # operations
    backward: int = 0  # operations
    saved: int = 0  # bytes

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.forward + other.forward,
            self.backward + other.backward,
            self.saved + other.saved,
        )

    def __sub__(self, other: Cost) -> Cost:
        return self + -1 * other

    def __rmul__(self, times: int) -> Cost:
        return Cost(times * self.forward, times * self.backward, times * self.saved)


SoFar = Callable[[], Cost]


def count(run: Callable[[SoFar], Tensor], weights: Iterable[Tensor], mixed: bool = False) -> Cost:
    """Run a model on the meta device, forward and backward.

    Args:
        run: gives the model's output; its inputs and weights are on the meta device, and masks on
            the CPU, for what they hold decides what is run. It is given a function that tells the
            cost so far.
        weights: of the model, which are not counted as saved.
        mixed: compute as autocast to bfloat16 does on a GPU.
    """
    own = {w.untyped_storage()._cdata for w in weights}
    saved: dict[int, torch.UntypedStorage] = {}  # held, for they are told apart by where they lie

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if x.is_meta and storage._cdata not in own:
            saved[storage._cdata] = storage
        return x

    def so_far() -> Cost:
        return Cost(operations.get_total_flops(), 0, sum(x.nbytes() for x in saved.values()))

    with FlopCounterMode(display=False) as operations, _MasksAreReal(), _AsOnGPU(own, mixed):
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            output = run(so_far)
        forward = so_far()
        if output.requires_grad:
            output.sum().backward()
    return Cost(forward.forward, so_far().forward - forward.forward, forward.saved)


class _MasksAreReal(TorchDispatchMode):
    """Tensors on the CPU keep their values among themselves, and beside others only shapes."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if any(x.is_meta for x in tensors) and not all(x.is_meta for x in tensors):
            args, kwargs = tree_map(_on_meta, (args, kwargs))
        return func(*args, **kwargs)


def _on_meta(x):
    return x.to(META) if isinstance(x, Tensor) and not x.is_meta and x.ndim else x


class _AsOnGPU(TorchFunctionMode):
    """Runs fused attention and autocast, neither of which torch has for the meta device.

    Args:
        own: where weights lie; the places of their copies are added.
        mixed: autocast to bfloat16 is on.
    """

    def __init__(self, own: set[int], mixed: bool) -> None:
        super().__init__()
        self.own, self.mixed = own, mixed
        self.copies: dict[tuple[int, torch.dtype], Tensor] = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.tensor:  # written values, which may decide what is run
            return func(*args, **{**kwargs, "device": "cpu"})
        if func is F.scaled_dot_product_attention:
            return self._attention(*args[:3])
        if func is Tensor.to and self._is_own(args[0]) and isinstance(args[-1], torch.dtype):
            return self._cast(args[0], args[-1])
        if self.mixed and (func in LOWERED or func in KEPT_WHOLE):
            dtype = torch.bfloat16 if func in LOWERED else torch.float32
            args, kwargs = tree_map(lambda x: self._cast(x, dtype), (args, kwargs))
        if self.mixed and func is F.rms_norm:
            return _RMSNormOfGPU.apply(args[0], kwargs["weight"])
        return func(*args, **kwargs)

    def _attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Name the kernel, for PyTorch chooses none for the meta device; masks cost nothing."""
        if self.mixed:
            q, k, v = (self._cast(x, torch.bfloat16) for x in (q, k, v))
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]

    def _is_own(self, x: Tensor) -> bool:
        return x.untyped_storage()._cdata in self.own

    def _cast(self, x, dtype: torch.dtype):
        """Give the same in another precision; of a weight there is one copy."""
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.dtype == dtype:
            return x
        if not self._is_own(x):
            return x.to(dtype)
        key = x.untyped_storage()._cdata
        if (key, dtype) not in self.copies:
            self.copies[key, dtype] = copy = x.to(dtype)
            self.own.add(copy.untyped_storage()._cdata)
        return self.copies[key, dtype]


class _RMSNormOfGPU(torch.autograd.Function):
    """A GPU's kernel keeps what it reads; elsewhere what is normed is kept beside it."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, x.new_empty(x.shape[:-1]), weight)
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, _, weight = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(weight)
