"""Grids that are drawn as training goes on. Run: pytest tests/train/loop/test_grids.py"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_adapter_training import adapter_fields, write_demo_checkpoint
from tiny_llm import save_llm
from tiny_training import fields, make_world, recipe_of, run, write_recipe

from lidit_core.errors import LiDiTError
from lidit_train.loop.computing import cpu
from lidit_train.recipe_file import read_recipe
from lidit_train.run import train

STEPS = {"stages": [{"images": 8, "batch": 4, "resolution": 32}], "checkpoints": {"every": 1}}
DRAWN = {"every": 2, "at_start": True, "steps": 2, "guidance": 3.0}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    return folder, make_world(folder)


def grids(out: Path) -> dict[str, np.ndarray]:
    return {p.stem: np.asarray(Image.open(p)) for p in sorted((out / "grids").glob("*.png"))}


def drawn(world, out: str, *prompts, **changes) -> dict[str, np.ndarray]:
    folder, llms = world
    data = fields(folder, **{**STEPS, "validation": {**DRAWN, "prompts": list(prompts)}, **changes})
    data["cache"]["folder"] = str(folder / "cache")
    train(read_recipe(write_recipe(folder, data)), folder / out, "cpu", llms)
    return grids(folder / out)


def test_a_prompt_may_have_a_seed_and_a_negative_prompt_of_its_own(world):
    plain = drawn(world, "plain", "a cat", "a cat")
    assert list(plain) == ["0000000", "0000002"]
    written = {"text": "a cat"}, {"text": "a cat", "seed": 1}
    same = drawn(world, "same", *written)
    assert all(np.array_equal(plain[step], same[step]) for step in plain)
    first, second = np.hsplit(plain["0000002"], 2)
    assert not np.array_equal(first, second)
    again = drawn(world, "again", {"text": "a cat", "seed": 1}, {"text": "a cat", "seed": 0})
    assert np.array_equal(np.hsplit(again["0000002"], 2)[1], first)
    away = drawn(world, "away", {"text": "a cat", "negative": "two dogs"}, "a cat")
    ours, unchanged = np.hsplit(away["0000002"], 2)
    assert not np.array_equal(ours, first) and np.array_equal(unchanged, second)


def test_prompts_of_several_sizes_stand_in_one_grid_in_their_order(world):
    wide = {"text": "a cat", "size": [64, 32]}
    grid = drawn(world, "sizes", "a cat", wide, "a dog", {"text": "a dog", "size": [32, 64]})
    assert grid["0000002"].shape == (64, 4 * 64, 3)
    white = np.full((64, 64, 3), True)
    for tile, (width, height) in zip(np.hsplit(grid["0000002"], 4),
                                     ((32, 32), (64, 32), (32, 32), (32, 64))):  # fmt: skip
        left, top = (64 - width) // 2, (64 - height) // 2
        inside = np.zeros_like(white)
        inside[top : top + height, left : left + width] = True
        assert (tile[~inside] == 255).all() and (tile[inside] < 255).any()
    alone = drawn(world, "alone", "a cat", "x", "a dog")
    tile = np.hsplit(grid["0000002"], 4)[2][16:48, 16:48]
    assert np.array_equal(tile, np.hsplit(alone["0000002"], 3)[2])


def test_a_grid_before_the_first_step_is_drawn_once(world):
    folder, _ = world
    drawn(world, "once", "a cat")
    (folder / "once" / "grids" / "0000000.png").unlink()
    assert list(drawn(world, "once", "a cat")) == ["0000002"]


ASKED = {
    "in parts": {"compute": {"micro_batch": 2, "checkpointing": True}},
    "bf16": {"compute": {"precision": "bf16", "cpu_bf16": True}},
    "muon": {"optimiser": {"name": "muon", "learning_rate": 3e-3, "warmup": 2}},
}


@pytest.mark.parametrize("asked", ASKED)
def test_drawing_between_two_saves_changes_nothing_that_is_learnt(world, asked, monkeypatch):
    """Of divided models test_sharding.py tells the same: only there are weights gathered."""
    monkeypatch.setattr(cpu, "has_instructions", lambda: True)
    folder, llms = world
    runs = []
    for validation in ({}, {**DRAWN, "every": 3, "prompts": ["a cat"]}):
        name = f"{asked}-{len(runs)}"
        runs.append(run(folder, name, llms, **{**ASKED[asked], "validation": validation}))
        assert len(grids(folder / name)) == (3 if validation else 0)
    assert all(torch.equal(runs[0][key], runs[1][key]) for key in runs[0])


@pytest.mark.parametrize("trained", [["replace", "add"], ["replace"]])
def test_an_adapters_modes_are_drawn_beside_its_base(world, trained):
    pytest.importorskip("diffusers")
    folder, _ = world
    if not (folder / "base.safetensors").exists():
        write_demo_checkpoint(folder / "base.safetensors")
        save_llm(folder / "llm", num_hidden_layers=2, hidden_size=16)
    modes = ["base", *trained]
    validation = {**DRAWN, "prompts": ["a cat", "two dogs"], "modes": modes}
    optimiser = {"learning_rate": 0.3, "warmup": 0, "ema": 0.0}
    changes = {"validation": validation, "adapter": {"modes": trained}, "optimiser": optimiser}
    data = adapter_fields(folder, **STEPS, **changes)
    out = folder / f"modes-{len(trained)}"
    train(read_recipe(write_recipe(folder, data)), out, "cpu")
    before, after = grids(out).values()
    assert before.shape == after.shape == (64, 32 * len(modes), 3)
    columns = [dict(zip(modes, np.hsplit(grid, len(modes)))) for grid in (before, after)]
    assert np.array_equal(columns[0]["base"], columns[1]["base"])
    for mode in trained:
        assert not np.array_equal(columns[1][mode], columns[1]["base"])
        assert not np.array_equal(columns[1][mode], columns[0][mode])
    if "add" in trained:  # which begins as the base is
        assert np.array_equal(columns[0]["add"], columns[0]["base"])


def test_what_cannot_be_drawn_is_refused(world):
    folder, llms = world
    for prompt, told in (
        ({"text": "a cat", "size": [40, 32]}, r"has size \[40, 32\]; expected multiples of 16"),
        ({"text": "a cat", "size": [32]}, "expected a width and a height in pixels"),
        ({"text": "a cat", "size": [0, 32]}, "expected a width and a height in pixels"),
        ({"size": [32, 32]}, "is incomplete"),
        ({"text": "a cat", "seed": -1}, "seed -1; expected 0 to"),
        (3, "is 3; expected an object of fields"),
    ):
        with pytest.raises(LiDiTError, match=told):
            recipe = recipe_of(folder, validation={"every": 1, "prompts": [prompt]})
            train(recipe, folder / "refused", "cpu", llms)
    with pytest.raises(LiDiTError, match="has validation.modes, which are an adapter's"):
        train(recipe_of(folder, validation={"modes": ["base"]}), folder / "refused", "cpu", llms)
    with pytest.raises(LiDiTError, match="a mode of the validation is 'x'; expected one of base"):
        recipe_of(folder, validation={"modes": ["x"]})


def test_a_mode_that_is_not_trained_is_refused(world):
    pytest.importorskip("diffusers")
    folder, _ = world
    write_demo_checkpoint(folder / "base.safetensors")
    save_llm(folder / "llm", num_hidden_layers=2, hidden_size=16)
    changes = {"validation": {"modes": ["add"]}, "adapter": {"modes": ["replace"]}}
    recipe = read_recipe(write_recipe(folder, adapter_fields(folder, **STEPS, **changes)))
    with pytest.raises(LiDiTError, match="draws mode 'add', and the adapter is trained in replace"):
        train(recipe, folder / "refused", "cpu")
