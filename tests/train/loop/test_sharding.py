"""A model divided over two processes trains and draws as two copies of it do, whatever the task.

Run: pytest tests/train/loop/test_sharding.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import together
from tiny_adapter_training import adapter_fields, write_demo_checkpoint
from tiny_bridge import bridge_fields, make_bridge_world
from tiny_llm import save_llm
from tiny_training import LLM, curve, fields, make_world, run, write_recipe

from lidit_train.recipe import LORA_KINDS

DRAWN = {"every": 3, "prompts": ["a cat"], "steps": 2}  # steps 3 and 6; only 6 is saved


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    llms = make_world(folder)
    return folder, llms


def data_of(task: str, folder: Path, **changes) -> dict:
    if task == "adapter":
        pytest.importorskip("diffusers")
        if not (folder / "base.safetensors").exists():
            write_demo_checkpoint(folder / "base.safetensors")
            save_llm(folder / "llm", num_hidden_layers=2, hidden_size=16)
        return adapter_fields(folder, **changes)
    if task == "bridge":
        if not (folder / "bridge").exists():
            make_bridge_world(folder / "bridge", False, "student")
        return bridge_fields(folder / "bridge", **changes)
    if task == "all":
        return fields(folder, **changes)
    base = folder / "base" / "final.safetensors"
    if not base.exists():  # a fresh model's gates are 0: no gradient would come through them
        run(folder, "base", {LLM: str(folder / LLM)})
    model = {"preset": "", "checkpoint": str(base), "changes": {}}
    if task in LORA_KINDS:
        task, changes["lora"] = "lora", {"rank": 4, "kind": task}
    return fields(folder, trains=task, model=model, **changes)


def learnt(folder: Path) -> list[dict]:
    """The log of a run, whose every step had a gradient."""
    lines = curve(folder)
    assert all(line["norm"] > 0 for line in lines)
    return lines


def trained(folder: Path, llms: dict[str, str], task: str, shard: bool) -> Path:
    """The folder of a run on two processes."""
    changes = {"compute": {"precision": "float32", "shard": shard}, "validation": DRAWN}
    out = folder / f"{task}-{shard}"
    recipe = write_recipe(folder, data_of(task, folder, **changes), f"{out.name}.yaml")
    words = ["train", str(recipe), "--out", str(out), "--device", "cpu"]
    places = [] if task == "adapter" else [f"--llm={k}={v}" for k, v in llms.items()]
    together(*[[sys.executable, "-m", "lidit_core", *words, *places]] * 2)
    return out


OTHERS = ("refiners", *LORA_KINDS, "adapter")
LONG = [pytest.param(task, marks=pytest.mark.long) for task in OTHERS]


@pytest.mark.parametrize("task", ["all", *LONG])
def test_divided_it_learns_and_draws_as_copies_do(world, task):
    copied, divided = (trained(*world, task, shard) for shard in (False, True))
    for ours, theirs in zip(learnt(divided), learnt(copied), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    drawn = [sorted((run / "grids").glob("*.png")) for run in (divided, copied)]
    assert len(drawn[0]) == len(drawn[1]) == 2
    for ours, theirs in zip(*drawn):
        a, b = (np.asarray(Image.open(path), dtype=float) for path in (ours, theirs))
        assert a.std() > 0 and np.abs(a - b).max() <= 2


TASKS = ("all", "refiners", "lora", "dora", "adapter")
KINDS = [(task, shard) for task in TASKS for shard in (False, True)]


@pytest.mark.long
@pytest.mark.parametrize(("task", "shard"), [*KINDS, ("bridge", False)])  # no bridge is divided
def test_two_processes_one_and_two_again_learn_as_two_do(world, task, shard):
    folder, llms = world
    compute = {"precision": "float32", "shard": shard}
    stage = {"images": 32, "batch": 4, **({} if task == "bridge" else {"resolution": 32})}
    rates = {"learning_rate": 1e-2, "warmup": 2, "decay": 0}
    data = data_of(task, folder, compute=compute, optimiser=rates, stages=[stage])
    if task == "adapter":
        data["adapter"]["noise"] = False  # each process draws its own
    recipe = write_recipe(folder, data, f"turns-{task}-{shard}.yaml")
    named = task not in ("adapter", "bridge")  # where LLMs are is told by the command
    places = [f"--llm={k}={v}" for k, v in llms.items() if named]
    alone = ["--set", "compute.shard=false"] if shard else []
    parts = ((2, 4, []), (1, 6, alone), (2, 8, []))
    runs = {f"turns-{task}-{shard}": parts, f"straight-{task}": ((2, 8, alone),)}
    curves = []
    for name, parts in runs.items():
        out = folder / name
        for processes, steps, more in () if out.exists() else parts:  # copied, it may be there
            words = ["train", str(recipe), "--out", str(out), "--device", "cpu", *places, *more]
            words += ["--set", f"stages.0.images={steps * stage['batch']}"]
            together(*[[sys.executable, "-m", "lidit_core", *words]] * processes)
        curves.append(learnt(out))
        taken = sorted((out / "checkpoints").iterdir())[-1]
        assert len(list(taken.glob("random-*"))) == 2
    assert [line["step"] for line in curves[0]] == list(range(1, 9))
    for ours, theirs in zip(*curves, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
