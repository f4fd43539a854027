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
from tiny_llm import save_llm
from tiny_training import curve, fields, make_world, write_recipe

DRAWN = {"every": 4, "prompts": ["a cat"], "steps": 2}


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
    return fields(folder, trains=task, **changes)


def trained(folder: Path, llms: dict[str, str], task: str, shard: bool) -> Path:
    """The folder of a run on two processes."""
    changes = {"compute": {"precision": "float32", "shard": shard}, "validation": DRAWN}
    out = folder / f"{task}-{shard}"
    recipe = write_recipe(folder, data_of(task, folder, **changes), f"{out.name}.yaml")
    words = ["train", str(recipe), "--out", str(out), "--device", "cpu"]
    places = [] if task == "adapter" else [f"--llm={k}={v}" for k, v in llms.items()]
    together(*[[sys.executable, "-m", "lidit_core", *words, *places]] * 2)
    return out


LONG = [pytest.param(task, marks=pytest.mark.long) for task in ("refiners", "lora", "adapter")]


@pytest.mark.parametrize("task", ["all", *LONG])
def test_divided_it_learns_and_draws_as_copies_do(world, task):
    copied, divided = (trained(*world, task, shard) for shard in (False, True))
    for ours, theirs in zip(curve(divided), curve(copied), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    drawn = [sorted((run / "grids").glob("*.png")) for run in (divided, copied)]
    assert len(drawn[0]) == len(drawn[1]) == 2
    for ours, theirs in zip(*drawn):
        a, b = (np.asarray(Image.open(path), dtype=float) for path in (ours, theirs))
        assert a.std() > 0 and np.abs(a - b).max() <= 2
