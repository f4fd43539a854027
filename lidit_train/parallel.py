"""Several processes that train one model, each on its share of every batch (torchrun's variables).

``torchrun --nproc-per-node N -m …``, or one command per process with RANK, WORLD_SIZE,
MASTER_ADDR and MASTER_PORT set. Alone, everything here does nothing.
"""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import nn

from lidit_core.errors import LiDiTError


def join(device: str) -> tuple[int, int]:
    """This process's rank and how many there are; joins the others where there are any."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1 and not dist.is_initialized():
        if torch.device(device).type == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    return (dist.get_rank(), world) if world > 1 else (0, 1)


def share(batch: int, rank: int, world: int) -> slice:
    """The rows of a batch that this process trains on."""
    if batch % world:
        raise LiDiTError(
            f"a batch of {batch} cannot be shared by {world} processes; expected a multiple"
        )
    size = batch // world
    return slice(rank * size, (rank + 1) * size)


def together(model: nn.Module, world: int) -> nn.Module:
    """The model with gradients averaged over all processes.

    A step leaves the refiners of absent LLMs without a gradient, in every process alike.
    """
    if world == 1:
        return model
    return nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)


def any_process(condition: bool, world: int) -> bool:
    """Whether it holds in at least one process, so that all of them stop at the same step."""
    if world == 1:
        return condition
    flag = torch.tensor(float(condition))
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag)
