"""An adapter goes on from another one. Run: pytest tests/train/tasks/test_adapter_start.py"""

from __future__ import annotations

import re

import pytest
import torch
from tiny_adapter_training import adapter_recipe, make_world, run_adapter

from lidit_core.errors import LiDiTError
from lidit_train.loop.parallel import accelerator_for
from lidit_train.run import begin_run, train

pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def test_an_adapter_begins_with_another_one(world):
    had = run_adapter(world, "had")
    path = str(world / "had" / "final.safetensors")
    recipe = adapter_recipe(world, adapter={"start": path})
    run = begin_run(recipe, world / "from", accelerator_for(recipe.compute, "cpu"))
    begun = run.trainer.learner.adapter.state_dict()
    assert all(torch.equal(begun[k], had[k]) for k in had)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"form": "last"}, "form is direct in it and last in the recipe"),
        ({"modes": ["add"]}, "modes is ('replace', 'add') in it and ('add',) in the recipe"),
        ({"start": "nowhere.safetensors"}, "adapter.start=nowhere.safetensors is no file"),
        ({"start": "base.safetensors"}, "base.safetensors"),
    ],
)
def test_an_adapter_that_does_not_fit_is_not_begun_with(world, changes, said, monkeypatch):
    run_adapter(world, "had")
    monkeypatch.chdir(world)
    recipe = adapter_recipe(world, adapter={"start": "had/final.safetensors", **changes})
    with pytest.raises(LiDiTError, match=re.escape(said)):
        train(recipe, world / "refused", "cpu", None)
