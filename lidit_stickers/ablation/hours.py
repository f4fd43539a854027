"""What an ablation will take, before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lidit_core.model.config import LiDiTConfig
from lidit_eval.items import items_of
from lidit_train.plan.hardware import THIS_CPU, Device, find_hardware
from lidit_train.plan.text import row
from lidit_train.plan.workload import FLOAT32, SampleTokens
from lidit_train.tasks.adapter.learner import GUIDANCE, STEPS
from lidit_train.tasks.adapter.plan import make_adapter_plan
from lidit_train.tasks.adapter.target import adapter_target
from lidit_train.tasks.lidit.plan.cost import model_cost
from lidit_train.tasks.lidit.plan.plan import Plan, make_plan
from lidit_train.tasks.lidit.start import configuration
from lidit_train.units import as_bytes, as_time

from .recipes import fork_fields, fork_recipe, with_cache
from .running import left
from .variants import Ablation, Variant


@dataclass(frozen=True)
class Hours:
    """Seconds of one run."""

    training: float
    measuring: float
    caching: float  # of states and latents; runs share what they have in common
    disk: int  # bytes of its checkpoints while it is trained


def plan_text(
    ablation: Ablation, out: Path, llms: Mapping[str, str], device: str | None = None
) -> str:
    """What `--print-plan` shows.

    Args:
        llms, device: as `Ablating` takes them.
    """
    return "\n".join(_lines(ablation, out, llms, device)) + "\n"


def _lines(ablation: Ablation, out: Path, llms: Mapping[str, str], on: str | None) -> Iterator[str]:
    model = {} if ablation.adapter else {"model": {"preset": "stickers"}}
    fork = with_cache({**ablation.fork, **model}, out)
    name = THIS_CPU if on else fork.hardware.device
    device = find_hardware(name)
    images = sum(stage.images for stage in fork.stages)
    todo = left(ablation, out)
    runs = len(ablation.variants) * len(ablation.seeds)
    begun = " from nothing" if ablation.model else ""
    yield (
        f"{runs} runs of {images:,} images{begun} ({len(ablation.variants)} variants, "
        f"{len(ablation.seeds)} seeds), of which {len(todo)} are left; on {name}"
    )
    total = 0.0
    if ablation.trunk:
        seconds = _planned(with_cache(ablation.trunk, out), device, out).seconds
        total += seconds
        yield row("the trunk", as_time(seconds), "once")
    found = {v.name: hours(ablation, v, device, out, llms) for v in ablation.variants}
    for variant in ablation.variants:
        each = found[variant.name]
        more = f"training {as_time(each.training)}, measuring {as_time(each.measuring)}"
        yield row(variant.name, as_time(each.training + each.measuring), f"{more}; {variant.says}")
    caching = max(each.caching for each in found.values())
    total += caching + sum(found[v.name].training + found[v.name].measuring for v, _ in todo)
    yield row("filling the caches, about", as_time(caching), "which runs share")
    yield row("checkpoints of a run", as_bytes(max(each.disk for each in found.values())))
    yield row("all that is left", as_time(total), f"{total / 3600:.1f} hours")


def hours(
    ablation: Ablation, variant: Variant, device: Device, out: Path, llms: Mapping[str, str]
) -> Hours:
    """What one run of a variant takes."""
    if ablation.adapter:
        return _adapter_hours(ablation, variant, device, out, llms)
    trunk = ablation.checkpoint
    fields = fork_fields(ablation, variant, 0, trunk)
    if ablation.trunk:  # not there yet: a model of its shape
        shape = ablation.trunk["model"]
        changes = {**shape.get("changes", {}), **fields["model"]["changes"]}
        fields["model"] = {**shape, "changes": changes}
    recipe = with_cache(fields, out)
    config = configuration(recipe.model, recipe.stages)
    plan = make_plan(recipe, config, folder=out, device=device)
    training = sum(stage.total_seconds for stage in plan.stages) + plan.validating
    measuring = _measuring(ablation, config, plan)
    return Hours(training, measuring, plan.caching, (plan.kept + 1) * plan.checkpoint)


def _adapter_hours(
    ablation: Ablation, variant: Variant, device: Device, out: Path, llms: Mapping[str, str]
) -> Hours:
    recipe = fork_recipe(ablation, variant, 0, "", out, llms)
    assert recipe.adapter is not None  # `fork_fields` has seen to it
    plan = make_adapter_plan(recipe, adapter_target(recipe.adapter), out, device)
    training = sum(plan.seconds(n) * load.stage.steps for n, load in enumerate(plan.loads))
    measuring = _passes(ablation, STEPS, GUIDANCE) * plan.unets[0].cost.forward
    speed = max(1.0, device.share * device.peak(recipe.compute.precision))
    kept = 5 * FLOAT32 * plan.adapter * (recipe.checkpoints.keep + 1)
    captions = sum(source.distinct or source.count for source in recipe.data.sources)
    reading = plan.llm.flops(recipe.adapter.token_budget) * captions * plan.keeps_states
    return Hours(training, measuring / speed, reading / speed, kept)


def _planned(recipe, device: Device, out: Path) -> Plan:
    return make_plan(recipe, configuration(recipe.model, recipe.stages), folder=out, device=device)


def _measuring(ablation: Ablation, config: LiDiTConfig, plan: Plan) -> float:
    """Seconds of the gap and of the pictures."""
    side = config.native_size // (config.patch * config.latent.downsampling)
    once = model_cost(config, SampleTokens(side * side, plan.tokens)).whole.forward
    passes = _passes(ablation, config.steps, config.guidance)
    speed = plan.device.share * plan.device.peak(plan.recipe.compute.precision)
    return passes * once / max(1.0, speed)


def _passes(ablation: Ablation, steps: int, guidance: float) -> int:
    """How often the model runs on one picture."""
    scores = (ablation.score, *ablation.also)
    passes = len(scores) * 2 * ablation.gap.scenes * len(ablation.gap.times)
    for score in scores:
        if score.every:
            pictures = -(-len(items_of(score.prompts)) // score.every)
            passes += pictures * steps * (2 if guidance != 1 else 1)
    return passes
