"""Several processes that train one model, each on its share of every batch.

PyTorch's launcher starts them; accelerate joins them, picks their device and copies the model to
each. With ``compute.shard`` torch's ``fully_shard`` divides it over them instead: accelerate's own
FSDP falls back to copies on CPUs. ``accelerate launch`` starts one process on CPUs, whatever number
is asked for, so it is not what we tell people to type.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, KwargsHandler
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from lidit_core.errors import LiDiTError

from ..learner import Learner
from ..recipe import Compute
from .voice import hush

log = logging.getLogger(__name__)

SEVERAL = "python -m torch.distributed.run --nproc_per_node N -m lidit_core train …"
STARTED = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")  # by launchers
ASKED = {"ACCELERATE_USE_CPU", "MASTER_PORT"}  # by accelerate's launcher, for several processes


def accelerator_for(
    compute: Compute, device: str | None = None, wait: float | None = None
) -> Accelerator:
    """The processes, devices and precision; a CPU computes in float32.

    A step leaves the refiners of absent LLMs without a gradient, in every process alike.

    Args:
        wait: minutes for which processes wait for one another; None = as many as torch's backends.
    Raises:
        LiDiTError: several processes were started, and this one would train alone.
    """
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    devices = getattr(torch, "accelerator", torch.cuda)  # torch before 2.6 has no name for all
    handlers: list[KwargsHandler] = [DistributedDataParallelKwargs(find_unused_parameters=True)]
    if wait is not None:
        handlers.append(InitProcessGroupKwargs(timeout=timedelta(minutes=wait)))
    accelerator = Accelerator(
        cpu=device == "cpu" or not devices.is_available(),  # or else CPUs are not joined
        mixed_precision="no" if on_cpu or compute.precision == "float32" else "bf16",
        kwargs_handlers=handlers,
    )
    _check_joined(accelerator.num_processes)
    return accelerator


def _check_joined(joined: int) -> None:
    numbers = (os.environ.get(name, "") for name in STARTED)
    started = max((int(number) for number in numbers if number.isdigit()), default=1)
    if joined < started:
        raise LiDiTError(
            f"{started} processes were started, and this one is joined to {joined - 1} others; "
            f"start them with `{SEVERAL}`, and with --device cpu where they are to share CPUs"
        )


def tell_processes(accelerator: Accelerator) -> None:
    """The first process says how many there are; from then on it alone tells how things go."""
    if not accelerator.is_main_process:
        return hush()
    count, device = accelerator.num_processes, accelerator.device.type
    log.info("training on %d process%s (%s)", count, "" if count == 1 else "es", device)
    if count == 1 and set(os.environ) >= ASKED:
        log.warning(
            "`accelerate launch` was asked for several processes and started one; several are "
            "started by `%s`",
            SEVERAL,
        )


def together(learner: Learner, accelerator: Accelerator, compute: Compute) -> nn.Module:
    """The module to call: with gradients averaged over all processes, and shared out if asked."""
    if compute.shard:
        shard(learner, accelerator, compute)
        return learner
    return accelerator.prepare_model(learner)


def check_several(accelerator: Accelerator) -> None:
    """Refuse to divide a model over one process."""
    if accelerator.num_processes < 2:
        raise LiDiTError(
            "the recipe's compute.shard divides the model over several processes, and this is one; "
            f"start it with `{SEVERAL}`, or leave it out"
        )


def shard(learner: Learner, accelerator: Accelerator, compute: Compute) -> None:
    """Divide weights, gradients and optimiser over all processes, a block at a time.

    Raises:
        LiDiTError: there is but one process.
    """
    check_several(accelerator)
    learner.to(accelerator.device)
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    policy = MixedPrecisionPolicy()
    if accelerator.mixed_precision == "bf16":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    options = {"mesh": mesh, "mp_policy": policy}
    for block in learner.blocks():
        fully_shard(block, **options)
    fully_shard(learner, **options)
    register_fsdp_forward_method(learner, "draw")  # gathers the weights as for a forward pass


def is_sharded(module: nn.Module) -> bool:
    return isinstance(module, FSDPModule)


def let_go_of_gathered(model: nn.Module) -> None:
    """Let go of weights gathered for a forward pass, which the next then gathers anew.

    The outermost module keeps its own until a backward pass: what is changed in their parts before,
    as when averages take their place to draw, would not be seen.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor that may be divided."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def check_finite(weights: Mapping[str, Tensor], accelerator: Accelerator, step: int) -> None:
    """Refuse to keep weights that are not finite; every process must ask.

    Args:
        step: after which they are.
    """
    bad = [name for name, weight in weights.items() if not local(weight).isfinite().all()]
    count = torch.tensor(len(bad), device=accelerator.device)
    if cast(Tensor, accelerator.reduce(count, "sum")).item():
        raise LiDiTError(
            f"the weights after step {step} are not finite, {(bad or ['some'])[0]} first, and are "
            "not saved; lower optimiser.learning_rate and start the same command again, which goes "
            "on from the last checkpoint"
        )


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be divided; every process must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def divided_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, the same in every process, divided as another one is."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements)


def made_in_shares(make: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """What ``make`` makes of the rows of a tensor that all processes have: each makes some.

    Args:
        make: gives a tensor of the same shape; what it makes of a row hangs on that row alone.
        rows: (n, ...); where there are fewer than processes, each process makes all.
    """
    world = distributed.get_world_size() if distributed.is_initialized() else 1
    if world == 1 or len(rows) < world:
        return make(rows)
    shares = rows.tensor_split(world)
    made = [torch.empty_like(share) for share in shares]
    own = distributed.get_rank()
    made[own] = make(shares[own]).contiguous()
    for rank, part in enumerate(made):
        distributed.broadcast(part, rank)
    return torch.cat(made)


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
