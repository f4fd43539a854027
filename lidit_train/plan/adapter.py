"""What training an adapter will need, before any weight is loaded: memory, operations, time, disk.

The U-Net is run once on torch's meta device, see lidit_train.plan.unet_cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from lidit_core.llmdiff.adapter import LLMDiffAdapter

from ..data.room import caption_bytes, free_disk
from ..data.token_guess import text_tokens
from ..recipe import Recipe
from ..tasks.adapter.target import AdapterTask
from .cache_sizes import Cached, caches, counts_of
from .hardware import Device, find_device
from .llm_size import LLMSize, llm_size
from .memory import FLOAT32
from .unet_cost import UNetCost, unet_cost
from .workload import StageLoad, stage_loads

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
