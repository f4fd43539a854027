"""What training an adapter will need, before any weight is loaded: memory, operations, time, disk.

The U-Net is run once on torch's meta device, where nothing is computed: its operations and the
tensors that its backward pass would keep are counted there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lidit_core.llmdiff.adapter import LLMDiffAdapter
from lidit_core.llmdiff.families import UNetShape

from .adapter_task import AdapterTask
from .cached import Cached, caches, counts_of, free_disk
from .hardware import Device, find_device
from .llm_size import LLMSize, llm_size
from .load import StageLoad, stage_loads, text_tokens
from .plan_text import row
from .recipe import Recipe
from .unet import build_unet
from .units import as_bytes, as_count, as_flops, as_time

FLOAT32 = 4  # bytes of a weight, a gradient, a moment, an average
BACKWARD = 1.2  # of the forward pass's operations: gradients of activations, hardly any of weights
KEPT_BY_CHECKPOINTS = 0.2  # assumed: of the activations, with blocks computed twice
MOST_HEADS = 40  # a tensor with as few matrices as this holds attention's scores


@dataclass(frozen=True)
class UNetCost:
    """Of one picture in one forward pass."""

    parameters: int
    flops: int
    kept: int  # bytes in float32 that the backward pass needs, attention's scores left out


def unet_cost(shape: UNetShape, side: int, tokens: int) -> UNetCost:
    """Args: side: of the latents; tokens: of the text."""
    unet = build_unet(shape, "meta").requires_grad_(False)
    inputs = _inputs(shape, side, tokens)
    kept: dict[int, int] = {}
    own = {p.untyped_storage()._cdata for p in unet.parameters()}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in own and not _is_scores(x):
            kept[storage._cdata] = storage.nbytes()
        return x

    with FlopCounterMode(display=False) as counted:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            alive = unet(**inputs).sample  # held: storages are told apart by where they lie
    del alive
    return UNetCost(_numbers(unet), counted.get_total_flops(), sum(kept.values()))


def _inputs(shape: UNetShape, side: int, tokens: int) -> dict:
    empty = {"device": "meta", "requires_grad": True}
    inputs = {
        "sample": torch.empty(1, shape.in_channels, side, side, **empty),
        "timestep": torch.empty(1, device="meta"),
        "encoder_hidden_states": torch.empty(1, tokens, shape.context_width, **empty),
    }
    if shape.adm:
        pooled, sizes = torch.empty(1, 1280, device="meta"), torch.empty(1, 6, device="meta")
        inputs["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": sizes}
    return inputs


def _is_scores(x: Tensor) -> bool:
    """Attention's scores, which fused kernels do not keep and the meta device writes out."""
    return x.ndim >= 3 and x.shape[-3] <= MOST_HEADS and x.shape[-2] >= 64


def _numbers(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@dataclass(frozen=True)
class AdapterPlan:
    recipe: Recipe
    task: AdapterTask
    device: Device
    llm: LLMSize
    adapter: int  # numbers that learn
    unets: tuple[UNetCost, ...]  # by stage
    loads: tuple[StageLoad, ...]
    caches: tuple[Cached, ...]
    each: int  # bytes of one caption's differences
    free: int  # bytes on the run's disk

    def flops(self, stage: int) -> float:
        """Of training on one picture."""
        unet, twice = self.unets[stage].flops, self.recipe.compute.checkpointing
        tokens = next(iter(self.loads[stage].subsets[0][1].text.values())).read
        reading = 0 if self.recipe.keeps_states else 2 * self.llm.flops(tokens)
        return unet * (1 + BACKWARD + twice) + 6 * self.adapter * tokens / 2 + reading

    def seconds(self, stage: int) -> float:
        """Of a step."""
        peak = self.device.share * self.device.peak(self.recipe.compute.precision)
        return self.flops(stage) * self.loads[stage].share / peak

    def memory(self) -> dict[str, int]:
        """Bytes by part."""
        half = self.recipe.compute.precision == "bf16" and not self.device.is_cpu
        share = KEPT_BY_CHECKPOINTS if self.recipe.compute.checkpointing else 1.0
        number = 2 if half else FLOAT32
        kept = max(u.kept * load.micro for u, load in zip(self.unets, self.loads))
        read = 0 if self.recipe.keeps_states else self.llm.parameters * number
        return {
            "U-Net, frozen": self.unets[0].parameters * FLOAT32,
            "its matrices in bf16, while they are used": self.unets[0].parameters * 2 * half,
            "adapter, gradients, moments, average": 5 * FLOAT32 * self.adapter,
            f"{self.llm.name}, frozen": read,
            "activations of a micro batch": round(kept * share * number / FLOAT32),
        }

    def text(self) -> str:
        parts = (_model, _steps, _memory, _time, _disk)
        return "\n\n".join("\n".join(part(self)) for part in parts) + "\n"


def make_adapter_plan(
    recipe: Recipe, task: AdapterTask, folder: str | Path = ".", device: Device | None = None
) -> AdapterPlan:
    tokens = text_tokens(task)
    loads = stage_loads(recipe, task, tokens)
    sides = [load.side // task.latent.downsampling for load in loads]
    read = next(iter(tokens.values())).read
    kept = caches(recipe, task, loads, tokens, counts_of(recipe))
    width = (task.adapter.blocks + 1) * task.adapter.llm.width
    return AdapterPlan(
        recipe,
        task,
        device or find_device(recipe.hardware.device),
        llm_size(task.adapter.llm, recipe.adapter.llm),
        _numbers(LLMDiffAdapter(task.adapter, device="meta")),
        tuple(unet_cost(task.shape, side, recipe.adapter.token_budget) for side in sides),
        loads,
        kept,
        read * width * 2,
        free_disk(Path(recipe.cache.folder or folder)),
    )


def _model(plan: AdapterPlan) -> Iterator[str]:
    config = plan.task.adapter
    modes = " and ".join(config.modes)
    yield f"Adapter for {config.family}: {len(config.layers)} layers, to {modes}"
    yield row("U-Net, frozen", as_count(plan.unets[0].parameters))
    yield row("adapter, trained", as_count(plan.adapter), f"{as_bytes(2 * plan.adapter)} in bf16")
    blocks = f"{config.blocks} blocks of {config.llm.width}"
    yield row(plan.llm.name, as_count(plan.llm.parameters), f"by {plan.llm.source}; {blocks}")


def _steps(plan: AdapterPlan) -> Iterator[str]:
    yield f"Training: {plan.recipe.steps:,} steps"
    for n, load in enumerate(plan.loads):
        images = f"{load.stage.images:,} images at {load.side} px"
        yield row(f"stage {n}", f"{load.stage.steps:,} steps", images)
        yield row("  batch", f"{load.stage.batch}", f"{load.share} a process, {load.micro} at once")
        yield row("  operations of an image", as_flops(plan.flops(n)))


def _memory(plan: AdapterPlan) -> Iterator[str]:
    parts = plan.memory()
    yield f"Memory ({plan.device.name})"
    for name, size in parts.items():
        yield row(name, as_bytes(size))
    total, there = sum(parts.values()), plan.device.memory
    yield row("peak", as_bytes(total), "fits" if total <= there else "DOES NOT FIT")


def _time(plan: AdapterPlan) -> Iterator[str]:
    share = "measured" if plan.device.is_cpu else "assumed"
    yield f"Time on {plan.device.name}, {plan.device.share:.0%} of its peak {share}"
    for n, load in enumerate(plan.loads):
        speed = f"{load.stage.batch / plan.seconds(n):,.1f} images/s"
        yield row(f"stage {n}", as_time(plan.seconds(n) * load.stage.steps), speed)


def _disk(plan: AdapterPlan) -> Iterator[str]:
    yield f"Disk ({as_bytes(plan.free)} free)"
    kept = "kept" if plan.recipe.keeps_states else "computed as it goes"
    yield row("differences of one caption", as_bytes(plan.each), kept)
    for cached in plan.caches:
        size = "not known" if cached.bytes is None else as_bytes(cached.bytes)
        fits = cached.bytes is None or cached.bytes <= plan.free
        yield row(cached.name, size, "" if fits else "MORE THAN IS FREE: this run will refuse it")
