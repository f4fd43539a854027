"""Memory of training runs, measured against their plans: ``python -m benchmarks.training_memory``.

Each case is the smoke recipe with some fields changed, to the sizes of the sticker models, in a
process of its own. Measured is the peak of its resident memory over some steps, less that before
the model was built; planned is what `lidit train --print-plan` says. Linux only.
"""

from __future__ import annotations

import argparse
import itertools
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from accelerate import Accelerator

from lidit_core.model.config import LiDiTConfig
from lidit_train.loop.parallel import accelerator_for
from lidit_train.plan.hardware import DEVICES, THIS_CPU
from lidit_train.recipe import LORA_KINDS, Recipe
from lidit_train.recipe_file import read_recipe
from lidit_train.run import begin_run
from lidit_train.tasks.lidit.plan.plan import make_plan
from lidit_train.tasks.lidit.start import configuration, fresh_branches
from lidit_train.tasks.lidit.trained import trained_by

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "recipes" / "smoke.yaml"
SMALL = "model.changes={depth: 1, width: 32, heads: 1}"
STEPS = 6  # after which the peak hardly grows any more
SIZES = ("model.changes={}", "stages.0.batch=64", "stages.0.resolution=128", "log.trackers=[]")
SIZES += ("validation.every=0",)
LARGER = "model.changes={depth: 12, width: 384, heads: 12}"
CASES = (
    (),
    ("optimiser.name=adamw",),
    ("compute.micro_batch=16",),
    ("trains=refiners",),
    *(("trains=lora", "lora.rank=8", f"lora.kind={kind}") for kind in LORA_KINDS),
    ("compute.checkpointing=true",),
    (LARGER, "stages.0.batch=32"),
    (LARGER, "stages.0.batch=16", "stages.0.resolution=256", "compute.checkpointing=true"),
)


def recipe_of(changes: tuple[str, ...]) -> Recipe:
    return read_recipe(RECIPE, [*SIZES, *changes])


def planned(recipe: Recipe, config: LiDiTConfig) -> int:
    """Bytes at the peak, without what a validation needs: none is reached here."""
    fresh = fresh_branches(recipe.model, config)
    trained = trained_by(recipe.trains, recipe.lora, config, fresh)
    return make_plan(recipe, config, trained, device=DEVICES[THIS_CPU]).memory.training


def resident(what: str) -> int:
    """Bytes: "VmRSS" now, "VmHWM" at most so far."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{what}:\s+(\d+)", status)[1])


def measure(changes: tuple[str, ...]) -> int:
    """Measure a training in this process: bytes at its peak above those before the model."""
    recipe = recipe_of(changes)
    with tempfile.TemporaryDirectory() as run:
        accelerator = accelerator_for(recipe.compute, "cpu")
        _train(recipe_of((*changes, SMALL, "stages.0.batch=2")), Path(run), accelerator, 1)
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
        before = resident("VmRSS")
        _train(recipe, Path(run), accelerator, STEPS)
        return resident("VmHWM") - before


def _train(recipe: Recipe, run: Path, accelerator: Accelerator, steps: int) -> None:
    """Some steps of the real trainer; a small model's show what libraries load lazily."""
    trainer = begin_run(recipe, run, accelerator).trainer
    losses = trainer.no_losses()
    for _, batch in itertools.islice(trainer.loader, steps):
        trainer.train_step(batch, losses)


def measured(changes: tuple[str, ...]) -> int:
    """Measure a training in a process of its own: bytes, as `measure` counts them."""
    words = [sys.executable, "-m", "benchmarks.training_memory", "--case", *changes]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    return int(done.stdout.split()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", nargs="*", help="measure these changes in this process")
    asked = parser.parse_args().case
    if asked is not None:
        print(measure(tuple(asked)))
        return 0
    worst = 0.0
    for changes in CASES:
        recipe = recipe_of(changes)
        found, plan = measured(changes), planned(recipe, configuration(recipe.model, recipe.stages))
        worst = max(worst, abs(plan / found - 1))
        print(
            f"{found / 1e6:7.0f} MB measured, {plan / 1e6:7.0f} MB planned "
            f"({plan / found - 1:+.1%}): {', '.join(changes) or 'as it is'}",
            flush=True,
        )
    print(f"off by {worst:.1%} at most (limit 15 %)")
    return 0 if worst <= 0.15 else 1


if __name__ == "__main__":
    sys.exit(main())
