"""What does not learn takes half the memory in bf16. Run: pytest tests/train/loop/test_frozen.py"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_adapter_training import adapter_recipe
from tiny_adapter_training import make_world as make_adapter_world
from tiny_training import LLM, curve, make_world, recipe_of, run, spec

from lidit_core.errors import LiDiTError
from lidit_train.loop.parallel import accelerator_for
from lidit_train.plan.hardware import DEVICES
from lidit_train.run import begin_run, train
from lidit_train.tasks.adapter.plan import make_adapter_plan
from lidit_train.tasks.adapter.target import adapter_target
from lidit_train.tasks.lidit.plan.plan import make_plan
from lidit_train.tasks.lidit.start import configuration
from lidit_train.tasks.lidit.trained import trained_by

DRAWN = {"every": 4, "prompts": ["a cat"], "steps": 1}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Where a LI-DiT has been trained, its LLMs, and a world of adapters."""
    folder = tmp_path_factory.mktemp("world")
    llms = make_world(folder)
    run(folder, "base", llms)
    pytest.importorskip("diffusers")
    return folder, llms, make_adapter_world(tmp_path_factory.mktemp("adapters"))


def recipes(world, task: str, frozen: str):
    """The recipe with this precision of what is frozen, and where its LLMs are."""
    folder, llms, adapters = world
    changes = {"compute": {"precision": "float32", "frozen": frozen}, "validation": DRAWN}
    if task == "adapter":
        return adapter_recipe(adapters, **changes), {}
    changes["optimiser"] = {"learning_rate": 1e-3, "warmup": 2}
    model = {"preset": "", "checkpoint": str(folder / "base" / "final.safetensors")}
    model["changes"] = {"llms": [spec(LLM)]}
    return recipe_of(folder, trains=task, model=model, **changes), llms


def frozen_bytes(world, task: str, frozen: str) -> int:
    recipe, llms = recipes(world, task, frozen)
    out = Path(world[0]) / f"held-{task}-{frozen}"
    learner = begin_run(recipe, out, accelerator_for(recipe.compute, "cpu"), llms).trainer.learner
    return sum(p.nbytes for p in learner.parameters() if not p.requires_grad)


@pytest.mark.parametrize("task", ["adapter", "lora", "refiners"])
def test_frozen_weights_take_half_and_it_learns_as_it_does_with_whole_ones(world, task):
    whole, half = (frozen_bytes(world, task, dtype) for dtype in ("float32", "bf16"))
    assert 0.5 <= half / whole < 0.53
    curves = []
    for dtype in ("float32", "bf16"):
        recipe, llms = recipes(world, task, dtype)
        out = world[0] / f"run-{task}-{dtype}"
        train(recipe, out, "cpu", llms)
        assert len(list((out / "grids").iterdir())) == 2
        curves.append([line["loss"] for line in curve(out)])
    assert curves[0] == pytest.approx(curves[1], rel=0.03) and curves[0] != curves[1]


@pytest.mark.parametrize("task", ["adapter", "lora"])
def test_the_plan_says_what_frozen_weights_take(world, task):
    """Compared with what they do take, on a device that computes in bf16."""
    for dtype in ("float32", "bf16"):
        recipe, _ = recipes(world, task, dtype)
        recipe = replace(recipe, compute=replace(recipe.compute, precision="bf16"))
        device = DEVICES["RTX 4090"]
        if task == "adapter":
            plan = make_adapter_plan(recipe, adapter_target(recipe.adapter), ".", device)
            own = sum(p for name, p in plan.memory().items() if name == "U-Net, frozen")
            taken = frozen_bytes(world, task, dtype) - _text_bytes(world, dtype)
        else:
            config = configuration(recipe.model, recipe.stages)
            trained = trained_by(recipe.trains, recipe.lora, config)
            plan = make_plan(recipe, config, trained, device=device)
            name = "frozen weights, bf16" if dtype == "bf16" else "weights, float32"
            own = sum(part.bytes for part in plan.memory.parts if part.name == name)
            own -= 4 * plan.weights.lora if dtype == "float32" else 0
            taken = frozen_bytes(world, task, dtype)
        assert own == pytest.approx(taken, rel=0.04)


def _text_bytes(world, dtype: str) -> int:
    """Of the demo checkpoint's own text encoder, which the plan leaves out."""
    recipe, llms = recipes(world, "adapter", dtype)
    out = Path(world[0]) / f"held-adapter-{dtype}"
    learner = begin_run(recipe, out, accelerator_for(recipe.compute, "cpu"), llms).trainer.learner
    return sum(p.nbytes for p in learner.own.parameters())


def test_what_does_not_fit_is_refused(world):
    folder, llms, _ = world
    with pytest.raises(LiDiTError, match="shard and frozen=bf16"):
        recipe_of(folder, compute={"shard": True, "frozen": "bf16"})
    with pytest.raises(LiDiTError, match="compute.frozen, and of such a model nothing is frozen"):
        run(folder, "all", llms, compute={"frozen": "bf16"})
