"""The plan of an adapter's run as text."""

from __future__ import annotations

from collections.abc import Iterator

from ...plan.text import cached_rows, held_out_row, row
from ...units import as_bytes, as_count, as_flops, as_time
from .plan import AdapterPlan


def adapter_plan_text(plan: AdapterPlan) -> str:
    """What `lidit train --print-plan` shows of an adapter's training."""
    parts = (_model, _steps, _memory, _time, _disk)
    return "\n\n".join("\n".join(part(plan)) for part in parts) + "\n"


def _model(plan: AdapterPlan) -> Iterator[str]:
    config = plan.target.adapter
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
    yield row("processes that read ahead", f"{plan.recipe.data.workers}", "for each that trains")


def _memory(plan: AdapterPlan) -> Iterator[str]:
    parts = plan.memory()
    sharded = f", sharded over {plan.shards}" if plan.shards > 1 else ""
    yield f"Memory of a process ({plan.device.name}{sharded})"
    for name, size in filter(lambda part: part[1], parts.items()):
        yield row(name, as_bytes(size))
    for name, size in plan.filling().items():
        yield row(f"while latents are cached: {name}", as_bytes(size))
    if drawn := plan.drawing()["its pictures"]:
        yield row("while pictures are drawn, for activations", as_bytes(drawn))
    total, there = plan.peak, plan.device.memory
    yield row("peak", as_bytes(total), "fits" if total <= there else "DOES NOT FIT")


def _time(plan: AdapterPlan) -> Iterator[str]:
    share = "measured" if plan.device.is_cpu else "assumed"
    yield f"Time on {plan.device.name}, {plan.device.share:.0%} of its peak {share}"
    for n, load in enumerate(plan.loads):
        speed = f"{load.stage.batch / plan.seconds(n):,.1f} images/s"
        yield row(f"stage {n}", as_time(plan.seconds(n) * load.stage.steps), speed)
    if plan.recipe.validation.held_out:
        yield held_out_row(plan.recipe.validation, plan.recipe.steps, plan.samples, plan.passing)
    if plan.recipe.compute.compile:
        yield "  What torch.compile saves is not counted."


def _disk(plan: AdapterPlan) -> Iterator[str]:
    yield f"Disk ({as_bytes(plan.free)} free)"
    kept = "kept" if plan.keeps_states else "computed as it goes"
    yield row("differences of one caption", as_bytes(plan.each), kept)
    yield from cached_rows(plan.caches, plan.free)
