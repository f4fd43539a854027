"""The plan of a bridge's run as text."""

from __future__ import annotations

from collections.abc import Iterator

from ...plan.text import peak_row, row
from ...units import as_bytes, as_count, as_flops, as_time
from .plan import BridgePlan


def bridge_plan_text(plan: BridgePlan) -> str:
    """What `lidit train --print-plan` shows of a bridge's training."""
    parts = (_model, _steps, _memory, _time, _disk)
    return "\n\n".join("\n".join(part(plan)) for part in parts) + "\n"


def _model(plan: BridgePlan) -> Iterator[str]:
    teacher = plan.config.teacher
    kind = "adds to it" if plan.config.add else f"residual {plan.config.residual}"
    yield f"Bridge to {teacher.name}: rows of {teacher.width}, {kind}"
    yield from plan.assumed
    size = f"{as_bytes(2 * plan.trained)} in bf16"
    yield row("residual, trained", as_count(plan.trained), size)
    yield row("base and table, frozen", as_count(plan.frozen))
    if plan.through is not None:
        told = f"{plan.through.family}; {plan.through.options.points} points of a trajectory of "
        told += f"{plan.through.options.steps}"
        told += f", to its block {blocks}" if (blocks := plan.through.options.blocks) else ""
        yield row("U-Net that it learns through", as_count(plan.through.unet.parameters), told)
    for llm, tokens in zip(plan.llms, plan.tokens):
        yield row(llm.name, as_count(llm.parameters), f"by {llm.source}; {tokens} tokens a prompt")


def _steps(plan: BridgePlan) -> Iterator[str]:
    yield f"Training: {plan.recipe.steps:,} steps on {plan.prompts:,} prompts of {plan.rows} rows"
    for n, stage in enumerate(plan.recipe.stages):
        yield row(f"stage {n}", f"{stage.steps:,} steps", f"{stage.images:,} prompts")
        yield row("  batch", f"{stage.batch}", f"{plan.micro} at once")
        yield row("  operations of a prompt", as_flops(plan.flops(n)))


def _memory(plan: BridgePlan) -> Iterator[str]:
    yield f"Memory of a process ({plan.device.name})"
    for name, size in filter(lambda part: part[1], plan.memory().items()):
        yield row(name, as_bytes(size))
    for name, size in plan.reading().items():
        yield row(f"while prompts are read: {name}", as_bytes(size))
    yield peak_row(plan.peak, plan.device)


def _time(plan: BridgePlan) -> Iterator[str]:
    share = "measured" if plan.device.is_cpu else "assumed"
    yield f"Time on {plan.device.name}, {plan.device.share:.0%} of its peak {share}"
    yield row("reading the prompts", as_time(plan.reading_seconds))
    if plan.fits_ridge:
        yield row("ridge", as_time(plan.ridge_seconds), "on this CPU")
    for n, stage in enumerate(plan.recipe.stages):
        speed = f"{stage.batch / plan.seconds(n):,.1f} prompts/s"
        yield row(f"stage {n}", as_time(plan.seconds(n) * stage.steps), speed)
    files = f"{plan.held_out:,} of them on this CPU, for {plan.files:,} files"
    yield row("measuring held-out prompts", as_time(plan.measuring_seconds), files)
    if plan.recipe.compute.compile:
        yield "  What torch.compile saves is not counted."
    if plan.recipe.compute.cpu_bf16 and plan.device.is_cpu:
        yield "  What bf16 saves on a CPU is not counted."


def _disk(plan: BridgePlan) -> Iterator[str]:
    yield f"Disk ({as_bytes(plan.free)} free)"
    if plan.recording:
        yield row("the recording, which is to be made", as_bytes(plan.recording))
    fits = "" if plan.disk <= plan.free else "MORE THAN IS FREE: this run will refuse it"
    yield row("states of the prompts", as_bytes(plan.disk), fits)
