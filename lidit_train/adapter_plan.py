"""What training an adapter will need, before any weight is loaded: memory, operations, time, disk.

The U-Net is run once on torch's meta device, see lidit_train.unet_cost.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from lidit_core.llmdiff.adapter import LLMDiffAdapter

from .cached import Cached, caches, counts_of
from .data.room import caption_bytes, free_disk
from .data.token_guess import text_tokens
from .hardware import Device, find_device
from .llm_size import LLMSize, llm_size
from .load import StageLoad, stage_loads
from .memory import FLOAT32
from .plan_text import row
from .recipe import Recipe
from .tasks.adapter.target import AdapterTask
from .unet_cost import UNetCost, unet_cost
from .units import as_bytes, as_count, as_flops, as_time

LLM = 0  # the only branch
BACKWARD = 1.2  # of the forward pass's operations: gradients of activations, hardly any of weights
KEPT_BY_CHECKPOINTS = 0.2  # assumed: of the activations, with blocks computed twice


def _numbers(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@dataclass(frozen=True)
class AdapterPlan:
    recipe: Recipe
    task: AdapterTask
    device: Device
    llm: LLMSize
    adapter: int  # numbers that learn
    unets: tuple[UNetCost, ...]  # by stage, with the adapter's paths
    loads: tuple[StageLoad, ...]
    caches: tuple[Cached, ...]
    each: int  # bytes of one caption's differences
    free: int  # bytes on the run's disk

    def flops(self, stage: int) -> float:
        """Of training on one picture."""
        unet, twice = self.unets[stage].flops, self.recipe.compute.checkpointing
        tokens = next(iter(self.loads[stage].subsets[0][1].text.values())).read
        reading = 0 if self.recipe.keeps_states else self.llm.flops(tokens)
        return unet * (1 + BACKWARD + twice) + reading

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


def make_adapter_plan(
    recipe: Recipe, task: AdapterTask, folder: str | Path = ".", device: Device | None = None
) -> AdapterPlan:
    tokens = text_tokens(task)
    loads = stage_loads(recipe, task, tokens)
    sides = [load.side // task.latent.downsampling for load in loads]
    adapter = LLMDiffAdapter(task.adapter, device="meta")
    kept = caches(recipe, task, loads, tokens, counts_of(recipe))
    return AdapterPlan(
        recipe,
        task,
        device or find_device(recipe.hardware.device),
        llm_size(task.adapter.llm, recipe.adapter.llm),
        _numbers(adapter),
        tuple(unet_cost(task.shape, s, recipe.adapter.token_budget, adapter) for s in sides),
        loads,
        kept,
        caption_bytes(task, LLM, tokens[LLM], recipe.cache.dtype),
        free_disk(Path(recipe.cache.folder or folder)),
    )


def adapter_plan_text(plan: AdapterPlan) -> str:
    """What `lidit train --print-plan` shows of an adapter's training."""
    parts = (_model, _steps, _memory, _time, _disk)
    return "\n\n".join("\n".join(part(plan)) for part in parts) + "\n"


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
