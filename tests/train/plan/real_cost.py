"""What a run on the CPU takes, by torch's own counters, to compare plans with."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from lidit_train.plan.counting import Cost

aten = torch.ops.aten
KERNELS = {  # the CPU's fused attention, which the counter knows only by a GPU's name
    aten._scaled_dot_product_flash_attention_for_cpu: aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        aten._scaled_dot_product_flash_attention_backward
    ),
}


def real_cost(run: Callable[[], Tensor], weights: Iterable[Tensor]) -> Cost:
    """Count a run forward and backward, with the bytes that autograd keeps in between.

    Args:
        weights: of the model, which are not counted as kept.
    """
    own = {w.untyped_storage().data_ptr() for w in weights}
    held: dict[int, torch.UntypedStorage] = {}

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage
        return x

    known = {cpu: functools.partial(flop_registry[gpu]) for cpu, gpu in KERNELS.items()}
    for formula in known.values():
        formula._get_raw = True  # it finds shapes by itself
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            output = run()
        forward = counter.get_total_flops()
        output.sum().backward()
    kept = sum(storage.nbytes() for storage in held.values())
    return Cost(forward, counter.get_total_flops() - forward, kept)
