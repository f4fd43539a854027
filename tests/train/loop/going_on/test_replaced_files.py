"""A run goes on with the files that it began with. Run:
pytest tests/train/loop/going_on/test_replaced_files.py"""

from __future__ import annotations

import json
import shutil
import typing
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from tiny_bridge import Windowed, bridge_fields, bridge_recipe, make_bridge_world, prompts
from tiny_training import write_recipe

from lidit_core.bridge.teacher import write_teacher
from lidit_core.errors import LiDiTError
from lidit_core.io.recording import record
from lidit_train.named_files import FILES, NAMED, check_hashes, keep_hashes
from lidit_train.recipe import Recipe
from lidit_train.recipe_file import read_recipe
from lidit_train.run import export, train

SHORT = [{"images": 8, "batch": 4}]


@pytest.fixture
def world(tmp_path):
    make_bridge_world(tmp_path, False, "student")
    return tmp_path


def run(folder: Path, out: str, images: int = 8, **changes) -> Path:
    stages = [{"images": images, "batch": 4}]
    return train(bridge_recipe(folder, stages=stages, **changes), folder / out, "cpu")


def record_anew(folder: Path, teacher: Windowed, texts: list[str]) -> None:
    shutil.rmtree(folder)
    record(teacher, texts, folder, {"encoder": "windowed"})
    write_teacher(folder, teacher.teacher)


@pytest.mark.parametrize("other", ["encoder", "prompts"])
def test_a_recording_that_was_replaced_is_refused(world, other):
    whole = run(world, "begun").read_bytes()
    if other == "encoder":
        record_anew(world / "recording", Windowed(False, seed=77), prompts())
    else:
        record_anew(world / "recording", Windowed(False), [f"{text} again" for text in prompts()])
    for images in (8, 16):
        with pytest.raises(LiDiTError, match="data.sources.0.path is .*begin another") as told:
            run(world, "begun", images)
        assert "\n" not in str(told.value)
    with pytest.raises(LiDiTError, match="data.sources.0.path is"):
        export(bridge_recipe(world, stages=SHORT), world / "begun", 2, "cpu")
    assert (world / "begun" / "final.safetensors").read_bytes() == whole
    run(world, "another")
    record_anew(world / "recording", Windowed(False), prompts())  # as it was, to the bit
    run(world, "begun", 16)


def test_a_bridge_that_was_replaced_is_refused(world):
    first = run(world, "first")

    def second(images: int) -> Path:
        options = {"llms": [str(world / "student")], "checkpoint": str(first), "held_out": 0.1}
        made = bridge_fields(world, stages=[{"images": images, "batch": 4}])
        recipe = read_recipe(write_recipe(world, {**made, "bridge": options}))
        return train(recipe, world / "second", "cpu")

    second(8)
    run(world, "first", 16)  # learns more, under the same name
    with pytest.raises(LiDiTError, match="bridge.checkpoint is .*what lies there is not what"):
        second(16)


def test_an_encoder_that_is_added_to_and_was_replaced_is_refused(world):
    adds = {"bridge": {"add": str(world / "weak")}}
    run(world, "adds", **adds)
    record_anew(world / "weak", Windowed(False, reads=0.1), prompts())
    with pytest.raises(LiDiTError, match="bridge.add is"):
        run(world, "adds", 16, **adds)


def test_a_run_without_a_checkpoint_takes_what_is_there(world):
    recipe = bridge_recipe(world, stages=SHORT)
    (world / "new").mkdir()
    keep_hashes(recipe, world / "new")
    record_anew(world / "recording", Windowed(False, seed=77), prompts())
    with pytest.raises(LiDiTError, match="data.sources.0.path is"):
        check_hashes(recipe, world / "new")
    run(world, "new")
    check_hashes(recipe, world / "new")


def test_a_run_of_an_older_version_goes_on(world):
    run(world, "older")
    (world / "older" / FILES).unlink()
    run(world, "older", 16)
    assert "data.sources.0.path" in json.loads((world / "older" / FILES).read_text())


def names_of(kind: typing.Any, before: str = "") -> set[str]:
    """Every field of a recipe by its name, with those of records in it."""
    records = [k for k in (kind, *typing.get_args(kind)) if is_dataclass(k)]
    if not records:
        return {before.rstrip(".")}
    hints = typing.get_type_hints(records[0])
    pairs = ((f"{before}{field.name}.", hints[field.name]) for field in fields(records[0]))
    return {name for begins, hint in pairs for name in names_of(hint, begins)}


def test_every_named_field_is_one_of_a_recipe():
    assert set(NAMED) <= names_of(Recipe)
