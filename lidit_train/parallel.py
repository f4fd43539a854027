"""Several processes that train one model, each on its share of every batch.

accelerate starts and joins them (``accelerate launch``, or torchrun), picks their device and copies
the model to each; with ``compute.shard`` torch's ``fully_shard`` divides it over them instead.
accelerate's own FSDP falls back to copies on CPUs, so it is not used for that.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from lidit_core.errors import LiDiTError

from .recipe import Compute


def accelerator_for(compute: Compute, device: str | None = None) -> Accelerator:
    """The processes, devices and precision; a CPU computes in float32.

    A step leaves the refiners of absent LLMs without a gradient, in every process alike.
    """
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    return Accelerator(
        cpu=device == "cpu",
        mixed_precision="no" if on_cpu or compute.precision == "float32" else "bf16",
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )


def together(learner: nn.Module, accelerator: Accelerator, compute: Compute) -> nn.Module:
    """The module to call: with gradients averaged over all processes, and shared out if asked."""
    if compute.shard:
        shard(learner, accelerator, compute)
        return learner
    return accelerator.prepare_model(learner)


def shard(learner: nn.Module, accelerator: Accelerator, compute: Compute) -> None:
    """Divide weights, gradients and optimiser over all processes, a block at a time.

    Raises:
        LiDiTError: there is but one process.
    """
    if accelerator.num_processes < 2:
        raise LiDiTError(
            "the recipe's compute.shard divides the model over several processes, and this is one; "
            "start it with `accelerate launch --num_processes N -m lidit_core train …`, or leave "
            "it out"
        )
    learner.to(accelerator.device)
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    policy = MixedPrecisionPolicy()
    if accelerator.mixed_precision == "bf16":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    options = {"mesh": mesh, "mp_policy": policy}
    model = learner.model
    for block in model.blocks:
        fully_shard(block, **options)
    fully_shard(learner, **options)


def is_sharded(module: nn.Module) -> bool:
    return isinstance(module, FSDPModule)


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor that may be divided."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be divided; every process must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def divided_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, the same in every process, divided as another one is."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements)


def share(batch: int, rank: int, world: int) -> slice:
    """The rows of a batch that this process trains on."""
    if batch % world:
        raise LiDiTError(
            f"a batch of {batch} cannot be shared by {world} processes; expected a multiple"
        )
    size = batch // world
    return slice(rank * size, (rank + 1) * size)


def share_of(accelerator: Accelerator) -> Callable[[int], slice]:
    return partial(share, rank=accelerator.process_index, world=accelerator.num_processes)
