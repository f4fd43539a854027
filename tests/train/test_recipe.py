"""A recipe is read strictly, and mistakes in it are one sentence.

Run: pytest tests/train/test_recipe.py
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_adapter_training import write_demo_checkpoint
from tiny_bridge import bridge_recipe, make_bridge_world, make_demo_recording
from tiny_llm import save_llm
from tiny_training import RECIPES, fields, pictures, recipe_of, write_recipe

from lidit_core.errors import LiDiTError
from lidit_core.shipped import find_base
from lidit_core.unet.families import FAMILIES
from lidit_train.data.schedule import stage_at
from lidit_train.recipe import Recipe
from lidit_train.recipe_file import read_recipe
from lidit_train.run import train
from lidit_train.tasks.lidit.start import configuration
from lidit_train.tasks.task import open_task

ROOT = Path(__file__).resolve().parents[2]


def test_set_changes_fields_by_their_places(tmp_path):
    path = write_recipe(tmp_path, fields(tmp_path))
    made = read_recipe(
        path, ["optimiser.learning_rate=2e-3", "stages.0.batch=8", "log.trackers=[]", "seed=3"]
    )
    assert (made.optimiser.learning_rate, made.stages[0].batch, made.seed) == (2e-3, 8, 3)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("lr=1", "unknown field 'lr'"),
        ("optimiser.name=sgd", "'sgd'; expected one of adamw, muon"),
        ("stages=[]", "no stages"),
        ("stages.4.batch=1", "cannot be applied"),
        ("stages.0.batch=many", "is 'many'; expected int"),
        ("stages.0.sources=[3]", "takes source 3; expected 0 to 0"),
        ("stages.0.focus={low: 0.9, high: 0.6}", "low=0.9 and high=0.6; expected times with"),
        ("stages.0.focus={low: 0.6, high: 1.2}", "low=0.6 and high=1.2; expected times with"),
        ("stages.0.focus={low: 0.6, high: 0.9, share: 2}", "share=2.0; expected 0 to 1"),
        ("stages.0.focus={low: 0.6}", "is incomplete"),
        ("contrast.weight=0", "contrast has weight=0.0; expected above 0 and below 1"),
        ("contrast.weight=1", "contrast has weight=1.0; expected above 0 and below 1"),
        ("data.caption_dropout=2", "caption_dropout=2.0; expected 0 to 1"),
        ("optimiser.learning_rate=1e39", "is 1e\\+39; expected a number from -1e\\+30 to 1e\\+30"),
        ("data.sources.0.weight=.nan", "is nan; expected a number from"),
        ("data.buckets.longest=1e9", "longest=1000000000.0; expected 1 to 100"),
        ("optimiser", "expected key.sub=value"),
    ],
)
def test_a_mistake_in_a_recipe_is_one_sentence(tmp_path, change, told):
    with pytest.raises(LiDiTError, match=told) as caught:
        read_recipe(write_recipe(tmp_path, fields(tmp_path)), [change])
    assert "\n" not in str(caught.value)


def test_a_rate_that_no_weight_bears_is_refused(tmp_path):
    changes = ["stages.0.rate=1e20", "optimiser.learning_rate=1e20"]
    with pytest.raises(LiDiTError, match="is 1e\\+40; expected 1e\\+30 at most, so lower one"):
        read_recipe(write_recipe(tmp_path, fields(tmp_path)), changes)


def test_contrast_needs_flow_matching_and_another_sample(tmp_path):
    alone = [{"images": 4, "batch": 4}, {"images": 4, "batch": 1}]
    with pytest.raises(LiDiTError, match="batch=1 and the recipe has contrast, .* 2 or more"):
        open_task(recipe_of(tmp_path, stages=alone, contrast={}))
    adapter = {"trains": "adapter", "model": {}, "adapter": {"base": "a", "llm": "b"}}
    data = {**fields(tmp_path, contrast={}), **adapter}
    with pytest.raises(LiDiTError, match="'adapter' and has contrast, .*flow.*; leave it out"):
        open_task(read_recipe(write_recipe(tmp_path, data)))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("model.checkpoint=stickers", "exactly one of them"),
        ("trains=everything", "'everything'; expected one of adapter, bridge, all, refiners, lora"),
        ("trains=adapter", "has no adapter; expected one with base and llm"),
        ("trains=bridge", "has no bridge; expected one with llms"),
    ],
)
def test_a_recipe_that_fits_no_task_is_one_sentence(tmp_path, change, told):
    recipe = read_recipe(write_recipe(tmp_path, fields(tmp_path)), [change])
    with pytest.raises(LiDiTError, match=told) as caught:
        open_task(recipe)
    assert "\n" not in str(caught.value)


def test_paths_are_looked_for_beside_the_recipe_too(tmp_path, monkeypatch):
    pictures(tmp_path / "kept" / "mine", 2)
    data = fields(tmp_path)
    data["data"]["sources"][0]["path"] = "mine"
    path = write_recipe(tmp_path / "kept", data)
    monkeypatch.chdir(tmp_path)
    assert read_recipe(path).data.sources[0].path == str(tmp_path / "kept" / "mine")


def test_a_step_knows_its_stage(tmp_path):
    stages = [{"images": 10, "batch": 4}, {"images": 8, "batch": 2}]
    made: Recipe = recipe_of(tmp_path, stages=stages)
    assert made.steps == 3 + 4
    assert [stage_at(step, made.stages)[0] for step in range(8)] == [0, 0, 0, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_that_ships_can_be_planned(path, tmp_path):
    changes = []
    if path.stem in ("stickers", "stickers-256"):  # it goes on from weights like those that ship
        changes = ["model.checkpoint=stickers"]
    elif "checkpoint: runs" in path.read_text() and not path.stem.startswith(
        "bridge-"
    ):  # what another recipe makes first
        llm = "SmolLM2-135M-Instruct"
        made = read_recipe(ROOT / "recipes" / f"stickers-{llm.split('-')[0].lower()}.yaml")
        from lidit_core.checkpoints.lidit import save_lidit
        from lidit_core.model.dit import LiDiT

        config = configuration(made.model, made.stages)
        save_lidit(LiDiT(config).initialise(), config, tmp_path / "made.safetensors")
        changes = [f"model.checkpoint={tmp_path / 'made.safetensors'}"]
    if "trains: adapter" in path.read_text():
        pytest.importorskip("diffusers")
        changes = [f"adapter.llm={save_llm(tmp_path / 'llm')}"]
        base = read_recipe(path).adapter.base
        if base not in FAMILIES and not find_base(base).is_file():  # what a command makes first
            changes.append(f"adapter.base={write_demo_checkpoint(tmp_path / 'base.safetensors')}")
    if "trains: bridge" in path.read_text():  # what another command records first
        make_bridge_world(tmp_path)
        changes = [f"data.sources.0.path={tmp_path / 'recording'}"]
        changes.append(f"bridge.llms=[{tmp_path / 'student'}]")
    if path.stem.startswith("bridge-"):  # from a bridge that another recipe makes first
        pytest.importorskip("diffusers")
        base = write_demo_checkpoint(tmp_path / "base.safetensors")
        recorded = make_demo_recording(tmp_path / "of-base", base)
        sources = {"sources": [{"kind": "recording", "path": str(recorded)}]}
        known = train(bridge_recipe(tmp_path, data=sources), tmp_path / "first", "cpu")
        source = recorded if path.stem == "bridge-through" else pictures(tmp_path / "pictures")
        begun = f"add={recorded}" if path.stem == "bridge-add" else f"checkpoint={known}"
        changes += [f"data.sources.0.path={source}", f"bridge.{begun}"]
        changes.append(f"bridge.through.base={base}")
    recipe = read_recipe(path, changes)
    assert f"{recipe.steps:,} steps" in open_task(recipe).plan(tmp_path)
