"""The plan of a bridge's run on pictures as text."""

from __future__ import annotations

from collections.abc import Iterator

from ....plan.text import cached_rows, memory_rows, peak_row, row, step_rows, time_rows
from ....units import as_bytes, as_count
from .plan import PairsPlan


def pairs_plan_text(plan: PairsPlan) -> str:
    """What `lidit train --print-plan` shows of a bridge's training from pictures."""
    times = time_rows(plan, "pictures")
    parts = (_model(plan), step_rows(plan, "picture"), _memory(plan), times, _disk(plan))
    return "\n\n".join(map("\n".join, parts)) + "\n"


def _model(plan: PairsPlan) -> Iterator[str]:
    adds = "that adds to " if plan.adds else "to "
    yield f"Bridge {adds}{plan.teacher}: from captioned pictures, by the loss of the U-Net itself"
    yield from plan.assumed
    yield row("residual, trained", as_count(plan.trained), f"{as_bytes(2 * plan.trained)} in bf16")
    yield row("base and table, frozen", as_count(plan.base))
    yield row(
        "U-Net that it learns through", as_count(plan.frozen.parameters), plan.unet.shape.family
    )
    for i, llm in enumerate(plan.llms):
        told = f"by {llm.source}; {plan.tokens[i].read} tokens a caption assumed"
        yield row(llm.name, as_count(llm.parameters), told)


def _memory(plan: PairsPlan) -> Iterator[str]:
    yield f"Memory of a process ({plan.device.name})"
    yield from memory_rows(plan.memory(), plan.filling())
    yield peak_row(plan.peak, plan.device)


def _disk(plan: PairsPlan) -> Iterator[str]:
    yield f"Disk ({as_bytes(plan.free)} free)"
    yield from cached_rows(plan.caches, plan.free)
    if plan.adds:
        yield f"  The time in which {plan.teacher} reads captions is not counted."
