"""Nothing that a run writes holds a number that is none. Run: pytest tests/train/loop -k finite"""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
import torch
from processes import environment
from tiny_adapter_training import adapter_recipe
from tiny_adapter_training import make_world as make_adapter_world
from tiny_training import fields, make_world, recipe_of, run, write_recipe

from lidit_core.errors import LiDiTError
from lidit_train.loop.journal import Journal
from lidit_train.loop.parallel import accelerator_for
from lidit_train.recipe import Compute, Log
from lidit_train.run import begin_run

ONE = [{"images": 8, "batch": 8, "resolution": 32}]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Pictures that all say the same, and one LLM."""
    folder = tmp_path_factory.mktemp("same")
    llms = make_world(folder)
    for caption in (folder / "pictures").glob("*.txt"):
        caption.write_text("a red cat")
    return folder, llms


def test_captions_that_are_all_alike_are_trained_on_in_finite_numbers(world):
    folder, llms = world
    weights = run(folder, "alike", llms, stages=ONE, data={"caption_dropout": 0.0})
    assert all(weight.isfinite().all() for weight in weights.values())
    assert max(weight.abs().max() for weight in weights.values()) < 100


def test_a_run_in_which_no_step_counts_ends_with_a_sentence(world):
    """Latents are divided by a deviation of 1e-38 here, so that no loss is a finite number."""
    folder, llms = world
    model = {"depth": 1, "width": 32, "heads": 2}
    latent = {"name": "stickers", "std": [1e-38]}
    data = fields(folder, stages=ONE)
    data["model"]["changes"] |= {**model, "latent": latent}
    recipe = write_recipe(folder, data, "none.yaml")
    words = ["train", str(recipe), "--out", str(folder / "none"), "--device", "cpu"]
    words += [f"--llm={name}={place}" for name, place in llms.items()]
    command = [sys.executable, "-m", "lidit_core", *words]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert ended.returncode == 2
    assert "nothing was learnt" in ended.stderr.splitlines()[-1]
    assert not (folder / "none" / "final.safetensors").exists()
    (line,) = (folder / "none" / "log.jsonl").read_text().splitlines()
    assert "NaN" not in line and "Infinity" not in line and json.loads(line)["skipped"] == 1


def test_a_number_that_is_none_is_left_out_of_the_log(tmp_path, caplog):
    accelerator = accelerator_for(Compute(), "cpu")
    journal = Journal(tmp_path, Log(trackers=()), accelerator, steps=1)
    journal.begin(0)
    line = journal.write(1, {"loss": 0.5, "langevin noise": math.inf, "norm": math.nan}, images=8)
    (written,) = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert written == line and written["loss"] == 0.5
    assert not {"langevin noise", "norm"} & {*written}
    assert "langevin noise, norm of step 1" in caplog.text


def test_weights_that_are_not_finite_are_no_checkpoint(world):
    folder, llms = world
    recipe = recipe_of(folder, *llms, stages=ONE)
    trainer = begin_run(
        recipe, folder / "bad", accelerator_for(recipe.compute, "cpu"), llms
    ).trainer
    with torch.no_grad():
        next(trainer.learner.parameters()).fill_(float("nan"))
    with pytest.raises(LiDiTError, match="after step 0 are not finite, .* lower optimiser"):
        trainer.save({})
    assert not (folder / "bad" / "checkpoints").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf, 3e38])
@pytest.mark.parametrize("trains", ["all", "adapter"])
def test_a_run_whose_weights_compute_no_number_ends_with_a_sentence(world, tmp_path, trains, value):
    """What it wrote until then is JSON, and trackers are told finite numbers alone."""
    folder, llms = world
    changes = {"stages": ONE, "optimiser": {"bad_steps": 2}}
    if trains == "adapter":
        pytest.importorskip("diffusers")
        llms, recipe = {}, adapter_recipe(make_adapter_world(tmp_path), **changes)
    else:
        recipe = recipe_of(folder, *llms, **changes)
    accelerator = accelerator_for(recipe.compute, "cpu")
    trainer = begin_run(recipe, tmp_path / "run", accelerator, llms).trainer
    told = []
    trainer.accelerator.log = lambda numbers, step: told.append(numbers)
    with torch.no_grad():
        for weight in trainer.learner.parameters():
            weight.fill_(value) if weight.requires_grad else None
    with pytest.raises(LiDiTError, match="lower optimiser.learning_rate"):
        trainer.train()
    (line,) = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    json.loads(line, parse_constant=pytest.fail)
    (numbers,) = told
    assert all(map(math.isfinite, numbers.values())) and numbers["skipped"] == 1
