"""What a recipe will need, before anything is loaded: memory, operations, time and disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lidit_core.model.config import LiDiTConfig

from ....data.room import free_disk
from ....data.token_guess import TextTokens, text_tokens
from ....loop.learning_rate import decay_start
from ....plan.cache_sizes import Cached, Count, caches, counts_of
from ....plan.hardware import Device, find_hardware
from ....plan.llm_size import LLMSize, llm_size
from ....plan.workload import (
    FLOAT32,
    SampleTokens,
    StageLoad,
    branches_read,
    image_tokens,
    measured_samples,
    read_together,
    stage_loads,
    validations,
)
from ....recipe import Recipe
from ..input import input_spec
from ..trained import Trained, Weights, count_weights, trained_by
from .cost import content_cost, model_cost, muon_flops
from .memory import Memory, checkpoint_bytes, memory_of
from .process import Process

UPDATE_BYTES = 40  # a trained number's, read and written by AdamW and the average in one step


@dataclass(frozen=True)
class StagePlan:
    load: StageLoad
    image_flops: float  # of one picture, the mean over subsets of branches
    flops: float  # of a step, over all processes
    computing: float  # seconds of a step
    traffic: float  # bytes that each process sends, and as many that it receives, in a step
    exchanging: float  # seconds that they take; they overlap with the computing

    @property
    def seconds(self) -> float:
        return max(self.computing, self.exchanging)

    @property
    def images_per_second(self) -> float:
        return self.load.stage.batch / self.seconds

    @property
    def total_seconds(self) -> float:
        return self.seconds * self.load.stage.steps


@dataclass(frozen=True)
class Plan:
    """All that `plan_text` prints."""

    recipe: Recipe
    config: LiDiTConfig
    device: Device
    weights: Weights
    tokens: Mapping[int, TextTokens]  # of a text by branch
    tokens_guessed: bool
    llms: Mapping[int, LLMSize]
    stages: tuple[StagePlan, ...]
    memory: Memory
    drawing: float  # seconds of all grids
    samples: int | None  # held-out pictures times times that are measured; None = not known
    passing: float  # seconds of one such pass
    caches: tuple[Cached, ...]
    caching: float  # seconds to fill them with what is known before the sources are read
    caching_thousand: float  # seconds for 1,000 pictures more; 0 = all are known
    checkpoint: int  # bytes of one
    free: int  # bytes on the run's disk

    @property
    def seconds(self) -> float:
        """The seconds of the whole run."""
        return sum(stage.total_seconds for stage in self.stages) + self.validating + self.caching

    @property
    def open(self) -> bool:
        """Whether something that takes time is not known before the sources are read."""
        held_out = self.samples is None and bool(self.recipe.validation.held_out)
        return held_out or self.caching_thousand > 0

    @property
    def measuring(self) -> float:
        """Seconds of all passes over held-out pictures, 0 if their number is not known."""
        return (self.samples or 0) * self.passing

    @property
    def validating(self) -> float:
        """Seconds of grids and of held-out pictures."""
        return self.drawing + self.measuring

    @property
    def disk(self) -> int:
        """Bytes of the caches, as far as counted, and of checkpoints with one being written."""
        cached = sum(cached.bytes or 0 for cached in self.caches)
        return cached + (self.kept + 1) * self.checkpoint

    @property
    def kept(self) -> int:
        """Checkpoints: the newest, and the one from before the decay where there is one."""
        recipe = self.recipe
        decays = decay_start(recipe.steps, recipe.optimiser.decay) < recipe.steps
        return recipe.checkpoints.keep + decays


def make_plan(
    recipe: Recipe,
    config: LiDiTConfig,
    trained: Trained | None = None,
    text: Mapping[int, TextTokens] | None = None,
    counts: Sequence[Count] | None = None,
    folder: str | Path = ".",
    device: Device | None = None,
) -> Plan:
    """Reckon with a recipe.

    Args:
        config: of the model that the recipe trains.
        trained: which weights learn; by default `trained_by` with every branch fresh.
        text: a text's tokens by branch; by default guessed from the templates.
        counts: of pictures and captions, one a source; by default what the recipe says.
        folder: of the run, for the free disk.
        device: by default the one that the recipe names.
    """
    trained = trained or trained_by(recipe.trains, recipe.lora, config)
    tokens = dict(text or text_tokens(config.llms))
    device = device or find_hardware(recipe.hardware.device)
    spec = input_spec(config)
    loads = stage_loads(recipe, spec, tokens)
    read = branches_read(loads)
    weights = count_weights(config, trained, read, read_together(loads))
    llms = {i: llm_size(config.llms[i]) for i in sorted(read)}
    process = Process(recipe, config, trained, weights, loads, device, llms)
    counted = counts_of(recipe.data, counts)
    cached = caches(recipe, spec, loads, {i: tokens[i] for i in sorted(read)}, counted)
    caching, thousand = _caching(process, tokens, cached)
    pictures = [count.pictures for count in counted]
    samples = measured_samples(recipe.validation, recipe.steps, pictures)
    return Plan(
        recipe=recipe,
        config=config,
        device=device,
        weights=weights,
        tokens=tokens,
        tokens_guessed=text is None,
        llms=llms,
        stages=tuple(_stage(process, load) for load in loads),
        memory=memory_of(process),
        drawing=_drawing(process, tokens),
        samples=samples,
        passing=_passing(process),
        caches=cached,
        caching=caching,
        caching_thousand=thousand,
        checkpoint=checkpoint_bytes(recipe.optimiser, weights),
        free=free_disk(Path(recipe.cache.folder or folder)),
    )


def _speed(process: Process) -> float:
    """FLOP/s of all devices; processes on one CPU share it."""
    device = process.device
    count = 1 if device.is_cpu else process.recipe.hardware.count
    return max(1.0, count * device.share * device.peak(process.recipe.compute.precision))


def _stage(process: Process, load: StageLoad) -> StagePlan:
    image = sum(weight * _image_flops(process, load, sizes) for weight, sizes in load.subsets)
    alone = 0
    if process.recipe.optimiser.name == "muon":
        alone = muon_flops(process.config, process.trained, process.recipe.hardware.count)
    flops = image * load.stage.batch + alone + _once_flops(process, load)
    sent = _traffic(process, load)
    computing = flops / _speed(process) + _update_seconds(process)
    exchanging = sent / process.device.between(process.recipe.hardware.count)
    return StagePlan(load, image, flops, computing, sent, exchanging)


def _image_flops(process: Process, load: StageLoad, sizes: SampleTokens) -> int:
    """The operations of training on a picture, with what is not cached."""
    recipe, config = process.recipe, process.config
    classes = recipe.content.classes if recipe.content else 0
    cost = model_cost(config, sizes, process.trained, process.mixed, recipe.routing)
    total = cost.training(recipe.compute.checkpointing)
    content = content_cost(config.width, sizes.tokens, classes, process.mixed)
    total += content.forward + content.backward
    aligned = process.alignment_cost(sizes.tokens)
    total += aligned.forward + aligned.backward
    placed = process.place_cost(sizes.tokens)
    total += placed.forward + placed.backward
    if not process.keeps_states:
        total += sum(process.llms[i].flops(text.read) for i, text in sizes.text.items())
    if not recipe.cache.latents:
        seen = process.vision(load.side)
        total += process.autoencoder.flops(load.side) + (seen.forward if seen else 0)
    return total


def _once_flops(process: Process, load: StageLoad) -> float:
    """The operations of a step that do not grow with its pictures, such as a LoHa's products."""
    recipe = process.recipe
    once = 0.0
    for weight, sizes in load.subsets:
        cost = model_cost(process.config, sizes, process.trained, process.mixed, recipe.routing)
        if cost.once:
            once += weight * cost.once.training(recipe.compute.checkpointing)
    return recipe.hardware.count * load.micro_batches * once


def _update_seconds(process: Process) -> float:
    """An optimiser's step reads and writes memory; a CPU's bandwidth is not known."""
    if not process.device.bandwidth:
        return 0.0
    return UPDATE_BYTES * process.weights.stepped / process.shards / process.device.bandwidth


def _traffic(process: Process, load: StageLoad) -> float:
    """Bytes that a process sends in a step.

    Shards: the weights are gathered for the forward and for the backward pass of every micro
    batch, and its gradients scattered in float32. Otherwise gradients are summed once a step,
    which sends them twice.
    """
    count, weights = process.recipe.hardware.count, process.weights
    part = (count - 1) / count
    if process.recipe.compute.shard:
        gathered = 2 * process.compute_bytes * weights.total
        return part * load.micro_batches * (gathered + FLOAT32 * weights.trained)
    return part * 2 * FLOAT32 * weights.trained


def _drawing(process: Process, tokens: Mapping[int, TextTokens]) -> float:
    """Seconds of all validations; the first process draws alone."""
    v, config = process.recipe.validation, process.config
    times = validations(v, process.recipe.steps)
    if not times or not v.prompts:
        return 0.0
    text = {i: tokens[i] for i in v.branches or tokens}
    once, grain = 0, config.patch * config.latent.downsampling
    for (width, height), count in v.sizes(config.native_size).items():
        sizes = SampleTokens(image_tokens(grain, width, height), text)
        once += model_cost(config, sizes, process.trained, process.mixed).forward(count)
    guided = 2 if (v.guidance or config.guidance) != 1 else 1
    alone = 1 if process.device.is_cpu else process.recipe.hardware.count
    flops = times * (v.steps or config.steps) * guided * once
    return flops * alone / _speed(process)


def _passing(process: Process) -> float:
    """Seconds of a pass over a held-out picture, of which each process has its share."""
    load = process.loads[-1]
    sizes = max(load.subsets, key=lambda subset: subset[0])[1]
    flops = model_cost(process.config, sizes, process.trained, process.mixed).forward()
    if not process.recipe.cache.latents:
        flops += process.autoencoder.flops(load.side)
    if not process.keeps_states:
        flops += sum(process.llms[i].flops(text.read) for i, text in sizes.text.items())
    return flops / _speed(process)


def _caching(process: Process, tokens: Mapping[int, TextTokens], cached) -> tuple[float, float]:
    """Seconds that LLMs and encoders take to fill the caches once, at most.

    An instruction is counted for each caption, and is run once for all.

    Returns:
        Those for what is known, and for 1,000 pictures of sources that have to be read first.
    """
    known = thousand = 0
    for one in cached:
        each = one.flops or process.autoencoder.flops(one.side)  # 0 where it has no side
        if one.branch is not None:
            each = process.llms[one.branch].flops(tokens[one.branch].read)
        known += each * (one.count or 0)
        thousand += each * 1000 * one.more
    return known / _speed(process), thousand / _speed(process)
