"""The rows of a plan as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from ..recipe import Recipe, Validation
from ..units import as_bytes, as_flops, as_time
from .cache_sizes import Cached
from .hardware import Device
from .workload import StageLoad, passes_over_one

NOT_KNOWN = "not known"  # before the sources are read


def row(what: str, value: str, more: str = "") -> str:
    """One line: what, how much, and a remark."""
    return f"  {what:44} {value:>16}  {more}".rstrip()


class OnPictures(Protocol):
    """The plan of a run that learns from pictures."""

    @property
    def recipe(self) -> Recipe: ...

    @property
    def device(self) -> Device: ...

    @property
    def loads(self) -> tuple[StageLoad, ...]: ...

    @property
    def samples(self) -> int | None: ...

    @property
    def passing(self) -> float: ...

    def seconds(self, stage: int) -> float: ...

    def flops(self, stage: int) -> float: ...


def step_rows(plan: OnPictures, what: str) -> Iterator[str]:
    """The steps of each stage, and what one picture takes.

    Args:
        what: a picture is called.
    """
    yield f"Training: {plan.recipe.steps:,} steps"
    for n, load in enumerate(plan.loads):
        pictures = f"{load.stage.images:,} {what}s at {load.side} px"
        yield row(f"stage {n}", f"{load.stage.steps:,} steps", pictures)
        yield row("  batch", f"{load.stage.batch}", f"{load.share} a process, {load.micro} at once")
        yield row(f"  operations of one {what}", as_flops(plan.flops(n)))
    yield row("processes that read ahead", f"{plan.recipe.data.workers}", "for each that trains")


def time_rows(plan: OnPictures, what: str) -> Iterator[str]:
    """How long each stage takes, and what is held out.

    Args:
        what: pictures are called.
    """
    share = "measured" if plan.device.is_cpu else "assumed"
    yield f"Time on {plan.device.name}, {plan.device.share:.0%} of its peak {share}"
    for n, load in enumerate(plan.loads):
        speed = f"{load.stage.batch / plan.seconds(n):,.1f} {what}/s"
        yield row(f"stage {n}", as_time(plan.seconds(n) * load.stage.steps), speed)
    if plan.recipe.validation.held_out:
        yield held_out_row(plan.recipe.validation, plan.recipe.steps, plan.samples, plan.passing)
    if plan.recipe.compute.compile:
        yield "  What torch.compile saves is not counted."


def memory_rows(parts: Mapping[str, int], filling: Mapping[str, int]) -> Iterator[str]:
    """The parts of a process that there are, and what fills its cache of latents."""
    for name, size in filter(lambda part: part[1], parts.items()):
        yield row(name, as_bytes(size))
    for name, size in filling.items():
        yield row(f"while latents are cached: {name}", as_bytes(size))


def peak_row(total: int, device: Device) -> str:
    """Whether a process fits."""
    return row("peak", as_bytes(total), "fits" if total <= device.memory else "DOES NOT FIT")


def cached_rows(caches: Sequence[Cached], free: int) -> Iterator[str]:
    """What caches take, beside so many bytes that are free."""
    for cached in caches:
        yield cached_row(cached)
        if cached.bytes is not None and cached.bytes > free:
            yield row("", "", "MORE THAN IS FREE: this run will refuse it")


def held_out_row(validation: Validation, steps: int, samples: int | None, passing: float) -> str:
    """How long a run of so many steps measures held-out pictures.

    Args:
        samples: passes of one picture; None = not known before the sources are read.
        passing: seconds of one pass.
    """
    if samples is not None:
        return row("measuring held-out pictures", as_time(samples * passing), f"{samples:,} passes")
    thousand = as_time(1000 * passes_over_one(validation, steps) * passing)
    return row("measuring held-out pictures", NOT_KNOWN, f"{thousand} for each 1,000 of them")


def cached_row(cached: Cached) -> str:
    """The room that one kind of thing takes, as far as known before the sources are read."""
    if cached.bytes is None:
        return row(cached.name, NOT_KNOWN, f"{as_bytes(cached.each)} each")
    files = f"{cached.files} file{'s' * (cached.files != 1)}"
    more = f"{cached.count:,} of {as_bytes(cached.each)}, {files}"
    open_ = f", and those {NOT_KNOWN}" if cached.more else ""
    return row(cached.name, as_bytes(cached.bytes), more + open_)


def filling_row(known: float, thousand: float) -> str:
    """How long caches take to fill.

    Args:
        known: seconds for what is known before the sources are read.
        thousand: seconds for 1,000 pictures more with a caption each; 0 = all are known.
    """
    value = as_time(known) if known or not thousand else NOT_KNOWN
    more = f"{'and ' * (known > 0)}{as_time(thousand)} for each 1,000 pictures not known"
    return row("filling the caches once, at most", value, more if thousand else "")
