"""A plan as text: what `lidit train --print-plan` shows."""

from __future__ import annotations

from collections.abc import Iterator

from ....plan.text import cached_row, filling_row, held_out_row, row
from ....plan.workload import StageLoad
from ....units import as_bytes, as_count, as_flops, as_time
from .memory import ENCODING, HELD, MICRO_BATCH, READING, SEEING, UPDATE, VALIDATION
from .plan import Plan, StagePlan

MOMENTS = {
    HELD: "held all the time",
    MICRO_BATCH: "while a micro batch is learnt",
    UPDATE: "while the weights are updated",
    VALIDATION: "while the validation prompts are drawn",
    READING: "while captions are read, before the model is there",
    SEEING: "while the vision encoder sees pictures, before the model is there",
    ENCODING: "while latents are computed, before the model is there",
}


def plan_text(plan: Plan) -> str:
    sections = (_model, _steps, _memory, _time, _disk, _assumed)
    return "\n\n".join("\n".join(section(plan)) for section in sections) + "\n"


def _where(plan: Plan) -> str:
    count, name = plan.recipe.hardware.count, plan.device.name
    each = "processes on" if plan.device.is_cpu else "x"
    return name if count == 1 else f"{count} {each} {name}"


def _model(plan: Plan) -> Iterator[str]:
    weights, config = plan.weights, plan.config
    yield (
        f"Model: depth {config.depth}, width {config.width}, {config.heads} heads, "
        f"{len(config.llms)} LLMs ({', '.join(llm.name for llm in config.llms)})"
    )
    yield row("parameters", as_count(weights.total))
    for name, (total, trained) in weights.parts.items():
        yield row(f"  {name}", as_count(total), f"{as_count(trained)} trained")
    if weights.lora:
        lora = plan.recipe.lora
        kind = "" if lora.kind == "lora" else f", {lora.kind}"
        yield row("LoRA beside them", as_count(weights.lora), f"rank {lora.rank}{kind}")
    yield row("trained", as_count(weights.trained), f"the recipe trains {plan.recipe.trains}")
    yield row("frozen", as_count(weights.frozen))
    if weights.stepped < weights.trained:
        unread = as_count(weights.trained - weights.stepped)
        yield row("of those trained, read by no step", unread, "refiners of branches left out")


def _steps(plan: Plan) -> Iterator[str]:
    images = sum(stage.load.stage.images for stage in plan.stages)
    yield f"Training: {plan.recipe.steps:,} steps, {images:,} images"
    for number, stage in enumerate(plan.stages):
        yield from _stage(number, stage)
    yield row("processes that read ahead", f"{plan.recipe.data.workers}", "for each that trains")


def _stage(number: int, plan: StagePlan) -> Iterator[str]:
    load, stage = plan.load, plan.load.stage
    yield row(
        f"stage {number}", f"{stage.steps:,} steps", f"{stage.images:,} images at {load.side} px"
    )
    yield row("  batch", f"{stage.batch}", _shares(load))
    tokens = load.subsets[0][1].tokens
    kept = " or ".join(str(sizes.kept) for _, sizes in load.subsets)
    yield row("  image tokens", f"{tokens}", f"{kept} text tokens in cross-attention")
    yield row("  operations of an image", as_flops(plan.image_flops))
    yield row("  operations of a step", as_flops(plan.flops))


def _shares(load: StageLoad) -> str:
    batches = "1 micro batch" if load.micro_batches == 1 else f"{load.micro_batches} micro batches"
    return f"{load.share} a process, in {batches} of {load.micro}"


def _memory(plan: Plan) -> Iterator[str]:
    memory, shards = plan.memory, plan.recipe.hardware.count
    sharded = f", sharded over {shards}" if plan.recipe.compute.shard and shards > 1 else ""
    yield f"Memory of {'a process' if plan.device.is_cpu else 'a GPU'} ({_where(plan)}{sharded})"
    for when, words in MOMENTS.items():
        if memory.at(when):
            yield row(words, as_bytes(memory.at(when)))
            for part in memory.parts:
                if part.when == when:
                    yield row(f"  {part.name}", as_bytes(part.bytes))
    yield row("peak", as_bytes(memory.peak), _fits(plan))


def _fits(plan: Plan) -> str:
    there = plan.device.memory / (plan.recipe.hardware.count if plan.device.is_cpu else 1)
    if not there:
        return f"{MOMENTS[plan.memory.moment]}"
    verdict = "fits in" if plan.memory.peak <= there else "DOES NOT FIT in"
    return f"{MOMENTS[plan.memory.moment]}; {verdict} {as_bytes(there)}"


def _time(plan: Plan) -> Iterator[str]:
    peak = plan.device.peak(plan.recipe.compute.precision)
    yield (
        f"Time on {_where(plan)}: {as_flops(peak)}/s each, of which {plan.device.share:.0%} are "
        f"reached ({'measured' if plan.device.is_cpu else 'assumed'})"
    )
    for number, stage in enumerate(plan.stages):
        speed = f"{stage.images_per_second:,.1f} images/s"
        yield row(f"stage {number}", as_time(stage.total_seconds), speed)
        yield row("  a step", as_time(stage.seconds), f"{as_time(stage.computing)} of computing")
        if stage.traffic:
            yield row("  sent by each process in a step", as_bytes(stage.traffic), _sent(stage))
    yield row("drawing the validation's prompts", as_time(plan.drawing))
    if plan.recipe.validation.held_out:
        yield held_out_row(plan.recipe.validation, plan.recipe.steps, plan.samples, plan.passing)
    yield filling_row(plan.caching, plan.caching_thousand)
    yield row("all", as_time(plan.seconds), "without what is not known" * plan.open)


def _sent(stage: StagePlan) -> str:
    hidden = stage.exchanging <= stage.computing
    words = "hidden behind computing" if hidden else "LONGER than the computing"
    return f"{as_time(stage.exchanging)}, {words}"


def _disk(plan: Plan) -> Iterator[str]:
    yield f"Disk ({as_bytes(plan.free)} free)"
    for cached in plan.caches:
        yield cached_row(cached)
    size = as_bytes(plan.checkpoint)
    kept = f"{plan.kept} of {size}, and one while it is written"
    yield row("checkpoints", as_bytes((plan.kept + 1) * plan.checkpoint), kept)
    verdict = "without what is not known" * any(cached.more for cached in plan.caches)
    if plan.disk > plan.free:
        verdict = f"MORE THAN IS FREE, {as_bytes(plan.free)}"
    yield row("all", as_bytes(plan.disk), verdict)


def _assumed(plan: Plan) -> Iterator[str]:
    yield "Assumed"
    share = "measured on another CPU" if plan.device.is_cpu else "not measured"
    yield f"  {plan.device.share:.0%} of the device's peak are reached ({share})."
    if plan.tokens_guessed:
        texts = ", ".join(f"{t.read} by branch {i}" for i, t in plan.tokens.items())
        yield f"  Tokens of a text, guessed from the templates' letters: {texts}."
    for llm in plan.llms.values():
        yield f"  {llm.name}: {as_count(llm.parameters)} parameters, by {llm.source}."
    if not plan.device.is_cpu:
        yield "  Activations in mixed precision follow from torch's rules; no GPU measured them."
    if plan.recipe.compute.shard:
        yield "  Shards are gathered in the precision of computing, gradients summed in float32."
    if plan.recipe.compute.compile:
        yield "  What torch.compile saves is not counted."
    if plan.recipe.compute.cpu_bf16 and plan.device.is_cpu:
        yield "  What bf16 saves on a CPU is not counted."
    if plan.recipe.compute.cuda_graph:
        yield "  What a CUDA graph saves of the time, and keeps of the memory, is not counted."
