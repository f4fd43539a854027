"""The plan of an adapter's run as text."""

from __future__ import annotations

from collections.abc import Iterator

from ...plan.text import cached_rows, memory_rows, peak_row, row, step_rows, time_rows
from ...units import as_bytes, as_count
from .plan import AdapterPlan


def adapter_plan_text(plan: AdapterPlan) -> str:
    """What `lidit train --print-plan` shows of an adapter's training."""
    times = time_rows(plan, "images")
    parts = (_model(plan), step_rows(plan, "image"), _memory(plan), times, _disk(plan))
    return "\n\n".join(map("\n".join, parts)) + "\n"


def _model(plan: AdapterPlan) -> Iterator[str]:
    config = plan.target.adapter
    modes = " and ".join(config.modes)
    yield f"Adapter for {config.family}: {len(config.layers)} layers, to {modes}"
    yield row("U-Net, frozen", as_count(plan.unets[0].parameters))
    yield row("adapter, trained", as_count(plan.adapter), f"{as_bytes(2 * plan.adapter)} in bf16")
    blocks = f"{config.blocks} blocks of {config.llm.width}"
    yield row(plan.llm.name, as_count(plan.llm.parameters), f"by {plan.llm.source}; {blocks}")


def _memory(plan: AdapterPlan) -> Iterator[str]:
    sharded = f", sharded over {plan.shards}" if plan.shards > 1 else ""
    yield f"Memory of a process ({plan.device.name}{sharded})"
    yield from memory_rows(plan.memory(), plan.filling())
    if drawn := plan.drawing()["its pictures"]:
        yield row("while pictures are drawn, for activations", as_bytes(drawn))
    yield peak_row(plan.peak, plan.device)


def _disk(plan: AdapterPlan) -> Iterator[str]:
    yield f"Disk ({as_bytes(plan.free)} free)"
    kept = "kept" if plan.keeps_states else "computed as it goes"
    yield row("differences of one caption", as_bytes(plan.each), kept)
    yield from cached_rows(plan.caches, plan.free)
