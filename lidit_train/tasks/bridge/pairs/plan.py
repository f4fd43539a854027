"""What training a bridge from pictures will need, before any weight is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lidit_core.bridge.file import LoadedBridge
from lidit_core.bridge.model import Bridge
from lidit_core.bridge.rows import stack_rows

from ....data.room import STORED_BYTES, free_disk
from ....data.token_guess import LETTERS, PROMPT_TOKENS, TextTokens, text_tokens
from ....input_spec import InputSpec
from ....plan.autoencoder_size import AutoencoderSize, autoencoder_size
from ....plan.cache_sizes import Cached, caches, counts_of
from ....plan.counting import META, Cost
from ....plan.hardware import Device, find_hardware
from ....plan.llm_size import LLMSize, llm_size
from ....plan.workload import FLOAT32, StageLoad, measured_samples, stage_loads
from ....recipe import Recipe
from ...adapter.plan import ACTIVATIONS, KEPT_BY_CHECKPOINTS
from ...adapter.target import LATENTS, UNetTarget
from ..plan import bridge_cost
from ..unet.plan import FrozenUNet, unet_cost

CAPTION = "cat " * PROMPT_TOKENS  # stands for one of the guessed length


@dataclass(frozen=True)
class PairsPlan:
    recipe: Recipe
    unet: UNetTarget
    teacher: str
    adds: bool  # to what it writes
    device: Device
    llms: tuple[LLMSize, ...]
    tokens: dict[int, TextTokens]  # of a caption, by LLM
    keeps_states: bool
    frozen: FrozenUNet
    trained: int  # numbers of the bridge that learn
    base: int  # numbers of it that do not
    bridge: Cost  # of one caption
    passes: tuple[Cost, ...]  # of one latent and the gradient to its conditioning, by stage
    loads: tuple[StageLoad, ...]
    caches: tuple[Cached, ...]
    samples: int | None  # held-out pictures times times that are measured; None = not known
    free: int  # bytes on the run's disk
    assumed: tuple[str, ...] = ()  # lines on what is not there yet

    @property
    def mixed(self) -> bool:
        """Whether precision is mixed; a CPU does without."""
        return self.recipe.compute.precision == "bf16" and not self.device.is_cpu

    @property
    def reading(self) -> int:
        """Operations of the LLMs on one caption, where its states are not kept."""
        if self.keeps_states:
            return 0
        return sum(llm.flops(self.tokens[i].read) for i, llm in enumerate(self.llms))

    def flops(self, stage: int) -> float:
        """The operations of training on one picture."""
        own, cost = self.bridge, self.passes[stage]
        again = 2 if self.recipe.compute.checkpointing else 1
        each = again * cost.forward + cost.backward
        return own.forward + own.backward + each + self.reading

    def seconds(self, stage: int) -> float:
        """The seconds of a step."""
        peak = self.device.share * self.device.peak(self.recipe.compute.precision)
        return self.flops(stage) * self.loads[stage].share / peak

    @property
    def passing(self) -> float:
        """Seconds of a pass over a held-out picture, at the last stage's size."""
        count = 1 if self.device.is_cpu else self.recipe.hardware.count
        speed = count * self.device.share * self.device.peak(self.recipe.compute.precision)
        return (self.passes[-1].forward + self.bridge.forward + self.reading) / speed

    @property
    def autoencoder(self) -> AutoencoderSize:
        """The tiny one of the demo checkpoint, or the one that SD1.5 and SDXL have."""
        return autoencoder_size(self.unet.shape.family in LATENTS, self.mixed)

    def filling(self) -> dict[str, int]:
        """Bytes while latents are computed, before the U-Net is there; empty if none are."""
        return self.autoencoder.filling(self.loads) if self.recipe.cache.latents else {}

    def memory(self) -> dict[str, int]:
        """The bytes of each part in one process."""
        compute, number = self.recipe.compute, 2 if self.mixed else FLOAT32
        share = KEPT_BY_CHECKPOINTS if compute.checkpointing else 1.0
        kept = max(
            (share * cost.saved + self.bridge.saved) * load.micro
            for cost, load in zip(self.passes, self.loads)
        )
        own = {llm.name: llm.parameters * number for llm in self.llms}
        return {
            **self.frozen.memory(compute, self.mixed),
            "bridge, gradients, moments, average": 5 * FLOAT32 * self.trained,
            "its base and table, frozen": FLOAT32 * self.base,
            **({} if self.keeps_states else own),
            **self._encoding(),
            ACTIVATIONS: round(kept),
        }

    def _encoding(self) -> dict[str, int]:
        """What encodes pictures as training goes, where latents are not kept."""
        if self.recipe.cache.latents:
            return {}
        vae = self.autoencoder
        most = max(vae.pictures(load.side, load.share) for load in self.loads)
        return {"autoencoder": vae.weights, "its pictures": most}

    @property
    def peak(self) -> int:
        """Bytes of the phase that needs most."""
        read = [llm.parameters * (2 if self.mixed else FLOAT32) for llm in self.llms]
        phases = self.filling(), self.memory()
        return max(*(sum(parts.values()) for parts in phases), *read)


def make_pairs_plan(
    recipe: Recipe,
    begun: LoadedBridge,
    spec: InputSpec,
    unet: UNetTarget,
    folder: str | Path = ".",
    device: Device | None = None,
) -> PairsPlan:
    """Count the operations, memory and disk that training a bridge from pictures takes.

    Args:
        begun: the bridge that is gone on from, or one without weights.
        folder: the run's, on whose disk the caches lie unless the recipe names another.
        device: by default the one that the recipe's hardware names.
    """
    assert recipe.bridge is not None  # `make_pairs_task` has seen to it
    config, tokens = begun.bridge.config, text_tokens(spec.llms)
    loads = stage_loads(recipe, spec, tokens)
    device = device or find_hardware(recipe.hardware.device)
    mixed = recipe.compute.precision == "bf16" and not device.is_cpu
    rows = begun.rows(CAPTION)
    sides = [load.side // unet.latent.downsampling for load in loads]
    counted = [unet_cost(unet.shape, side, len(rows.ids), mixed) for side in sides]
    counts = counts_of(recipe.data)
    kept = caches(recipe, spec, loads, tokens, counts)
    if config.add:
        captions = [count.captions for count in counts if count.captions is not None]
        numbers = len(rows.ids) * config.teacher.width + config.teacher.pooled
        each, more = numbers * STORED_BYTES[recipe.cache.dtype], len(captions) < len(counts)
        name = f"captions that the recording lacks, by {config.teacher.name}"
        kept += (Cached(name, sum(captions) if captions else None, each, branch=0, more=more),)
    bridge = Bridge(config, device=META)
    sources = recipe.bridge.llms or [llm.name for llm in spec.llms]
    return PairsPlan(
        recipe,
        unet,
        config.teacher.name,
        config.add,
        device,
        tuple(llm_size(llm, source) for llm, source in zip(spec.llms, sources)),
        tokens,
        spec.keeps_states(recipe.cache),
        counted[0][0],
        sum(p.numel() for p in bridge.parameters()),
        sum(b.numel() for b in bridge.buffers()),
        bridge_cost(bridge, stack_rows([rows]), LETTERS * PROMPT_TOKENS, mixed),
        tuple(cost for _, cost in counted),
        loads,
        kept,
        measured_samples(recipe.validation, recipe.steps, [c.pictures for c in counts]),
        free_disk(Path(recipe.cache.folder or folder)),
    )
