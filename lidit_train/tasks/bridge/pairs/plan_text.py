"""The plan of a bridge's run on pictures as text."""

from __future__ import annotations

from collections.abc import Iterator

from ....plan.text import cached_rows, held_out_row, row
from ....units import as_bytes, as_count, as_flops, as_time
from .plan import PairsPlan


def pairs_plan_text(plan: PairsPlan) -> str:
    """What `lidit train --print-plan` shows of a bridge's training from pictures."""
    parts = (_model, _steps, _memory, _time, _disk)
    return "\n\n".join("\n".join(part(plan)) for part in parts) + "\n"


def _model(plan: PairsPlan) -> Iterator[str]:
    yield f"Bridge to {plan.teacher}: from captioned pictures, by the loss of the U-Net itself"
    yield row("residual, trained", as_count(plan.trained), f"{as_bytes(2 * plan.trained)} in bf16")
    yield row("base and table, frozen", as_count(plan.base))
    yield row("U-Net that it learns through", as_count(plan.frozen), plan.unet.shape.family)
    for i, llm in enumerate(plan.llms):
        told = f"by {llm.source}; {plan.tokens[i].read} tokens a caption assumed"
        yield row(llm.name, as_count(llm.parameters), told)


def _steps(plan: PairsPlan) -> Iterator[str]:
    yield f"Training: {plan.recipe.steps:,} steps"
    for n, load in enumerate(plan.loads):
        pictures = f"{load.stage.images:,} pictures at {load.side} px"
        yield row(f"stage {n}", f"{load.stage.steps:,} steps", pictures)
        yield row("  batch", f"{load.stage.batch}", f"{load.share} a process, {load.micro} at once")
        yield row("  operations of a picture", as_flops(plan.flops(n)))
    yield row("processes that read ahead", f"{plan.recipe.data.workers}", "for each that trains")


def _memory(plan: PairsPlan) -> Iterator[str]:
    yield f"Memory of a process ({plan.device.name})"
    for name, size in filter(lambda part: part[1], plan.memory().items()):
        yield row(name, as_bytes(size))
    for name, size in plan.filling().items():
        yield row(f"while latents are cached: {name}", as_bytes(size))
    total, there = plan.peak, plan.device.memory
    yield row("peak", as_bytes(total), "fits" if total <= there else "DOES NOT FIT")


def _time(plan: PairsPlan) -> Iterator[str]:
    share = "measured" if plan.device.is_cpu else "assumed"
    yield f"Time on {plan.device.name}, {plan.device.share:.0%} of its peak {share}"
    for n, load in enumerate(plan.loads):
        speed = f"{load.stage.batch / plan.seconds(n):,.1f} pictures/s"
        yield row(f"stage {n}", as_time(plan.seconds(n) * load.stage.steps), speed)
    if plan.recipe.validation.held_out:
        yield held_out_row(plan.recipe.validation, plan.recipe.steps, plan.samples, plan.passing)
    if plan.recipe.compute.compile:
        yield "  What torch.compile saves is not counted."


def _disk(plan: PairsPlan) -> Iterator[str]:
    yield f"Disk ({as_bytes(plan.free)} free)"
    yield from cached_rows(plan.caches, plan.free)
