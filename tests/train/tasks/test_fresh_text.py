"""A transformer whose text side starts anew. Run: pytest tests/train/tasks/test_fresh_text.py"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_training import make_world, recipe_of, run, spec

from lidit_core.checkpoints.lidit import load_lidit, read_lidit
from lidit_core.errors import LiDiTError
from lidit_train.recipe import Recipe
from lidit_train.tasks.lidit.start import begin, configuration
from lidit_train.tasks.task import open_task

FEW = [{"images": 8, "batch": 4, "resolution": 32}]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """A trunk that one LLM has read to, and two LLMs."""
    folder = tmp_path_factory.mktemp("world")
    llms = make_world(folder, "one", "two")
    run(folder, "trunk", {"one": llms["one"]}, stages=FEW)
    return folder, llms


def fork(folder: Path, *llms: str, **refiner) -> Recipe:
    changes = {"llms": [spec(name) for name in llms], "refiner": refiner}
    model = {"preset": "", "checkpoint": str(folder / "trunk" / "final.safetensors")}
    return recipe_of(
        folder, *llms, model={**model, "fresh_text": True, "changes": changes}, stages=FEW
    )


@pytest.mark.parametrize("llms", [("one",), ("two", "one")])
@pytest.mark.parametrize("refiner", [{}, {"blocks": 1, "registers": 3}, {"gated": False}])
def test_the_transformer_is_the_trunks_and_the_text_side_is_new(world, llms, refiner):
    recipe = fork(world[0], *llms, **refiner)
    config = configuration(recipe.model, recipe.stages)
    assert {k: getattr(config.refiner, k) for k in refiner} == refiner
    start = begin(recipe.model, recipe.seed, config)
    before = load_lidit(world[0] / "trunk" / "final.safetensors").state_dict()
    assert start.fresh == tuple(range(len(llms)))
    moved = 0
    for name, weight in start.model.state_dict().items():
        if not name.startswith("text_side."):
            assert torch.equal(weight, before[name]), name
        elif name in before and weight.shape == before[name].shape:
            moved += not torch.equal(weight, before[name])
    assert moved > 5


def test_a_fork_trains_and_is_a_file_like_any_other(world):
    folder, llms = world
    changes = {"llms": [spec("two")], "refiner": {"blocks": 1}}
    trunk = str(folder / "trunk" / "final.safetensors")
    model = {"preset": "", "checkpoint": trunk, "fresh_text": True, "changes": changes}
    run(folder, "fork", {"two": llms["two"]}, model=model, stages=FEW)
    config, _ = read_lidit(folder / "fork" / "final.safetensors")
    assert config.refiner.blocks == 1 and [llm.name for llm in config.llms] == ["two"]


def test_without_it_another_refiner_is_refused_with_the_remedy(world):
    folder, _ = world
    trunk = str(folder / "trunk" / "final.safetensors")
    model = {"preset": "", "checkpoint": trunk, "changes": {"refiner": {"blocks": 1}}}
    recipe = recipe_of(folder, "one", model=model)
    with pytest.raises(LiDiTError, match="its refiner too where model.fresh_text is true"):
        open_task(recipe).check_files()


def test_a_checkpoint_is_given_a_second_position_resblock_once(world):
    folder, _ = world
    trunk = str(folder / "trunk" / "final.safetensors")
    model = {"preset": "", "checkpoint": trunk, "changes": {"position_dilation": 2}}
    run(folder, "wide", {"one": world[1]["one"]}, model=model, stages=FEW)
    path = folder / "wide" / "final.safetensors"
    learnt = load_lidit(path)
    assert learnt.config.position_dilation == 2
    assert learnt.wide_position.conv2.weight.abs().max() > 0
    for other in (0, 3):  # its weights would be read in other places than they were trained for
        model = {"preset": "", "checkpoint": str(path), "changes": {"position_dilation": other}}
        with pytest.raises(LiDiTError, match="changes position_dilation of the checkpoint"):
            open_task(recipe_of(folder, "one", model=model)).check_files()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model": {"fresh_text": True}}, "a new model's text side is fresh anyway"),
        ({"trains": "lora", "model": {"fresh_text": True, "preset": "", "checkpoint": "stickers",
                                      "changes": {}}}, "whose weights no LoRA would hold"),
    ],
)  # fmt: skip
def test_where_it_would_mean_nothing_it_is_refused(world, changes, told):
    with pytest.raises(LiDiTError, match=told):
        open_task(recipe_of(world[0], "one", **changes))
