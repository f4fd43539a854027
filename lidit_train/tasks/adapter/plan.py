"""What training an adapter will need, before any weight is loaded: memory, operations, time, disk.

The U-Net is run on torch's meta device, see lidit_train.tasks.adapter.unet_cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from lidit_core.llmdiff.adapter import LLMDiffAdapter

from ...data.room import caption_bytes, free_disk
from ...data.token_guess import text_tokens
from ...loop.computing.frozen import holds_half
from ...loop.validating.grid import BATCH as DRAWN
from ...plan.autoencoder_size import AutoencoderSize, autoencoder_size
from ...plan.cache_sizes import Cached, caches, counts_of
from ...plan.hardware import Device, find_hardware
from ...plan.llm_size import LLMSize, llm_size
from ...plan.workload import FLOAT32, StageLoad, measured_samples, stage_loads
from ...recipe import EIGHT_BITS, Compute, Recipe
from .input import input_spec
from .start import reads_own_text
from .target import LATENTS, AdapterTarget
from .unet_cost import UNetCost, unet_cost

LLM = 0  # the only branch
ACTIVATIONS = "activations of a micro batch"
TEXT_ENCODERS = {"sd15": 123_060_480, "sdxl": 123_060_480 + 694_659_840}  # CLIP-L, and bigG
KEPT_BY_CHECKPOINTS = 0.2  # assumed: of the activations, with blocks computed twice
KEPT_ON_CPU = 0.6  # measured on SD1.5 at 256 and 384 pixels: the same with what glibc keeps of them


def _mixed(compute: Compute, device: Device) -> bool:
    """Whether precision is mixed; a CPU does without."""
    return compute.precision == "bf16" and not device.is_cpu


def _numbers(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@dataclass(frozen=True)
class AdapterPlan:
    recipe: Recipe
    target: AdapterTarget
    device: Device
    llm: LLMSize
    adapter: int  # numbers that learn
    unets: tuple[UNetCost, ...]  # by stage, with the adapter's paths
    loads: tuple[StageLoad, ...]
    caches: tuple[Cached, ...]
    each: int  # bytes of one caption's differences
    samples: int | None  # held-out pictures times times that are measured; None = not known
    free: int  # bytes on the run's disk

    @property
    def keeps_states(self) -> bool:
        """Whether the captions' differences are cached, so that the LLM is not held."""
        return input_spec(self.target).keeps_states(self.recipe.cache)

    @property
    def shards(self) -> int:
        """Processes that share weights, gradients, moments and averages."""
        return self.recipe.hardware.count if self.recipe.compute.shard else 1

    def flops(self, stage: int) -> float:
        """The operations of training on one picture."""
        cost = self.unets[stage].cost
        runs = 2 if self.recipe.compute.checkpointing else 1
        tokens = next(iter(self.loads[stage].subsets[0][1].text.values())).read
        reading = 0 if self.keeps_states else self.llm.flops(tokens)
        return runs * cost.forward + cost.backward + reading

    def seconds(self, stage: int) -> float:
        """The seconds of a step."""
        peak = self.device.share * self.device.peak(self.recipe.compute.precision)
        return self.flops(stage) * self.loads[stage].share / peak

    @property
    def passing(self) -> float:
        """Seconds of a pass over a held-out picture, at the last stage's size."""
        compute, load = self.recipe.compute, self.loads[-1]
        tokens = next(iter(load.subsets[0][1].text.values())).read
        each = self.unets[-1].cost.forward
        each += 0 if self.keeps_states else self.llm.flops(tokens)
        count = 1 if self.device.is_cpu else self.recipe.hardware.count
        speed = count * self.device.share * self.device.peak(compute.precision)
        return each / speed

    @property
    def autoencoder(self) -> AutoencoderSize:
        """The tiny one of the demo checkpoint, or the one that SD1.5 and SDXL have."""
        large = self.target.shape.family in LATENTS
        return autoencoder_size(large, _mixed(self.recipe.compute, self.device))

    @property
    def peak(self) -> int:
        """Bytes of the phase that needs most."""
        phases = self.filling(), self.memory(), self.drawing()
        return max(sum(parts.values()) for parts in phases)

    @property
    def own_text(self) -> int:
        """Numbers in the base's own text encoders, 0 where they are not read, or tiny."""
        options = self.recipe.adapter
        assert options is not None  # `make_task` has seen to it
        if not reads_own_text(options, self.recipe.validation):
            return 0
        return TEXT_ENCODERS.get(self.target.shape.family, 0)

    def filling(self) -> dict[str, int]:
        """The same while latents are computed, before the U-Net is there; empty if none are."""
        return self.autoencoder.filling(self.loads) if self.recipe.cache.latents else {}

    def memory(self) -> dict[str, int]:
        """The bytes of each part in one process; shards are gathered a block at a time."""
        half = _mixed(self.recipe.compute, self.device)
        share = 1.0
        if self.recipe.compute.checkpointing:
            share = KEPT_ON_CPU if self.device.is_cpu else KEPT_BY_CHECKPOINTS
        number, held = 2 if half else FLOAT32, holds_half(self.recipe.compute, half)
        copied = half and not held
        each, frozen = (2 if held else FLOAT32), self.unets[0].eight
        if self.recipe.compute.frozen in EIGHT_BITS:
            each = 1
        else:
            frozen = self.unets[0].parameters * each
        kept = max(u.cost.saved * load.micro for u, load in zip(self.unets, self.loads))
        read = 0 if self.keeps_states else self.llm.parameters * number
        return {
            "U-Net, frozen": frozen // self.shards,
            "its text encoders, frozen": self.own_text * each // self.shards,
            "its matrices in bf16, while they are used": self.unets[0].parameters * 2 * copied,
            "adapter, gradients, moments, average": 5 * FLOAT32 * self.adapter // self.shards,
            f"{self.llm.name}, frozen": read,
            ACTIVATIONS: round(kept * share),
        }

    def drawing(self) -> dict[str, int]:
        """The same while a validation or a batch goes through the autoencoder."""
        validation, vae = self.recipe.validation, self.autoencoder
        most = [0]
        for (width, height), count in validation.sizes(self.target.native_size).items():
            if validation.every or validation.at_start:
                side = round((width * height) ** 0.5)
                most.append(vae.pictures(side, min(count, DRAWN), decoded=True))
        if not self.recipe.cache.latents:
            most += [vae.pictures(load.side, load.share) for load in self.loads]
        held = {name: size for name, size in self.memory().items() if name != ACTIVATIONS}
        return {**held, "autoencoder": vae.weights, "its pictures": max(most)}


def make_adapter_plan(
    recipe: Recipe, target: AdapterTarget, folder: str | Path = ".", device: Device | None = None
) -> AdapterPlan:
    options = recipe.adapter
    assert options is not None  # `make_task` has seen to it
    spec = input_spec(target)
    tokens = text_tokens(spec.llms)
    loads = stage_loads(recipe, spec, tokens)
    sides = [load.side // target.latent.downsampling for load in loads]
    device = device or find_hardware(recipe.hardware.device)
    shape, mixed = target.shape, _mixed(recipe.compute, device)
    counts = counts_of(recipe.data)
    kept = caches(recipe, spec, loads, tokens, counts)
    pictures = [count.pictures for count in counts]
    return AdapterPlan(
        recipe,
        target,
        device,
        llm_size(target.adapter.llm, options.llm),
        _numbers(LLMDiffAdapter(target.adapter, device="meta")),
        tuple(unet_cost(shape, target.adapter, s, options.token_budget, mixed) for s in sides),
        loads,
        kept,
        caption_bytes(spec, LLM, tokens[LLM], recipe.cache.dtype),
        measured_samples(recipe.validation, recipe.steps, pictures),
        free_disk(Path(recipe.cache.folder or folder)),
    )
