"""Runs that are lengthened by a changed recipe.

Run: pytest tests/train/loop/going_on/test_training_longer.py
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_training import curve, fields, make_world, recipe_of, run, write_recipe

from lidit_train.run import train

ROOT = Path(__file__).resolve().parents[4]
DECAY = {"learning_rate": 1e-2, "warmup": 2, "decay": 0.5}
LOG = {"every": 7, "trackers": []}  # a line also sums steps on both sides of the decay's start
SHORT, LONG = 16, 28  # steps: their rates fall from step 9 and from step 15 on


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with pictures, one LLM, and a run of 16 steps and one of 28."""
    folder = tmp_path_factory.mktemp("world")
    llms = make_world(folder)
    for steps in (SHORT, LONG):
        go(folder, f"run-{steps}", llms, steps)
    return folder, llms


def go(folder, out: str, llms, steps: int, **changes) -> dict[str, torch.Tensor]:
    """Train, or train on, to so many steps; the averaged weights."""
    stages = changes.pop("stages", [{"images": 4 * steps, "batch": 4, "resolution": 32}])
    made = {"optimiser": DECAY, "log": LOG, "checkpoints": {"every": 4}, **changes}
    return run(folder, out, llms, stages=stages, **made)


def stop(folder, out: str, llms, steps: int, at: int) -> None:
    """A run that dies in the middle of a step."""

    def die(step: int, loss: float) -> None:
        if step == at:
            raise KeyboardInterrupt

    stages = [{"images": 4 * steps, "batch": 4, "resolution": 32}]
    every = {"checkpoints": {"every": 4}, "optimiser": DECAY, "log": LOG}
    with pytest.raises(KeyboardInterrupt):
        train(recipe_of(folder, stages=stages, **every), folder / out, "cpu", llms, die)


def kept(folder, out: str) -> list[int]:
    names = (path.name for path in (folder / out / "checkpoints").iterdir())
    return sorted(int(name.removeprefix("step-")) for name in names)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in b)


def copy_of(folder, name: str):
    shutil.copytree(folder / f"run-{SHORT}", folder / name)
    return folder / name / "checkpoints"


def test_the_checkpoint_from_before_the_decay_stays_beside_the_newest(world):
    folder, _ = world
    assert kept(folder, f"run-{SHORT}") == [9, 12, 16]
    assert kept(folder, f"run-{LONG}") == [15, 24, 28]


def test_a_lengthened_run_is_the_run_that_was_long_from_the_beginning(world, caplog):
    folder, llms = world
    copy_of(folder, "longer")
    with caplog.at_level(logging.INFO, "lidit_train"):
        longer = go(folder, "longer", llms, LONG)
    assert "step 16 lies in the decay of a shorter run" in caplog.text
    assert "goes on from step 9, before it, and leaves what came after" in caplog.text
    assert "going on at step 9 of 28" in caplog.text
    long = go(folder, f"run-{LONG}", llms, LONG)  # has ended: nothing is trained
    assert same(longer, long)
    assert curve(folder / "longer") == curve(folder / f"run-{LONG}")
    assert kept(folder, "longer") == [15, 24, 28]


@pytest.mark.parametrize("decay", [0.5, pytest.param(1.0, marks=pytest.mark.long)])
def test_a_cosine_is_run_once_by_a_run_that_is_lengthened(world, decay):
    folder, llms = world
    cosine = {"optimiser": {**DECAY, "decay": decay, "schedule": "cosine"}}
    name, straight = f"cosine-{decay}", f"cosine-{decay}-long"
    go(folder, name, llms, SHORT, **cosine)
    longer, long = (go(folder, out, llms, LONG, **cosine) for out in (name, straight))
    assert same(longer, long) and curve(folder / name) == curve(folder / straight)
    assert not same(long, go(folder, f"run-{LONG}", llms, LONG))


@pytest.mark.long
def test_two_processes_lengthen_the_run_of_one(world):
    folder, llms = world
    copy_of(folder, "two")
    stages = [{"images": 4 * LONG, "batch": 4, "resolution": 32}]
    data = fields(folder, stages=stages, optimiser=DECAY, log=LOG, checkpoints={"every": 4})
    words = [str(write_recipe(folder, data, "two.yaml")), "--out", str(folder / "two")]
    words += [part for name, place in llms.items() for part in ("--llm", f"{name}={place}")]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    launcher += ["-m", "lidit_core", "train", *words, "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run(launcher, env=environment, check=True, timeout=400)
    ours, theirs = curve(folder / "two"), curve(folder / f"run-{LONG}")
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for a, b in zip(ours, theirs):
        assert a.keys() == b.keys()
        assert all(a[name] == pytest.approx(b[name], rel=1e-4) for name in a)


@pytest.mark.long
@pytest.mark.parametrize("steps", [22, 40])  # whose own decay begins soon after, or much later
def test_a_lengthened_run_may_die_and_be_lengthened_again(world, steps):
    folder, llms = world
    name, straight = f"again-{steps}", f"straight-{steps}"
    copy_of(folder, name)
    for length, died in ((20, 10), (20, 18), (steps, 13), (steps, 14)):
        stop(folder, name, llms, length, died)
    assert same(go(folder, name, llms, steps), go(folder, straight, llms, steps))
    assert curve(folder / name) == curve(folder / straight)


def test_a_run_lengthened_before_its_decay_just_goes_on(world, caplog):
    folder, llms = world
    stop(folder, "level", llms, SHORT, 9)  # after the checkpoint of step 8
    with caplog.at_level(logging.INFO, "lidit_train"):
        longer = go(folder, "level", llms, LONG)
    assert "going on at step 8 of 28" in caplog.text and "decay" not in caplog.text
    assert same(longer, go(folder, f"run-{LONG}", llms, LONG))


def test_a_run_that_dies_in_its_decay_goes_on_within_it(world, caplog):
    folder, llms = world
    stop(folder, "died", llms, SHORT, 14)
    with caplog.at_level(logging.INFO, "lidit_train"):
        again = go(folder, "died", llms, SHORT)
    assert "going on at step 12 of 16" in caplog.text and "lies in the decay" not in caplog.text
    assert same(again, go(folder, f"run-{SHORT}", llms, SHORT))
    assert curve(folder / "died") == curve(folder / f"run-{SHORT}")


def test_where_no_checkpoint_is_from_before_the_decay_it_says_that_the_rate_rises(world, caplog):
    folder, llms = world
    shutil.rmtree(copy_of(folder, "missing") / "step-0000009")
    with caplog.at_level(logging.INFO, "lidit_train"):
        go(folder, "missing", llms, LONG)
    told = "fallen to 12 %, goes back to 93 % and falls once more"
    assert told in caplog.text and "begin in another folder" in caplog.text
    assert "going on at step 16 of 28" in caplog.text
    assert [line["step"] for line in curve(folder / "missing")][-1] == LONG


def test_a_shortened_decay_is_no_second_one_either(world, caplog):
    folder, llms = world
    copy_of(folder, "later")
    changed = {"optimiser": {**DECAY, "decay": 0.25}}
    with caplog.at_level(logging.INFO, "lidit_train"):
        later = go(folder, "later", llms, SHORT, **changed)
    assert "going on at step 9 of 16" in caplog.text
    assert same(later, go(folder, "later-straight", llms, SHORT, **changed))


@pytest.mark.long
def test_the_last_of_several_stages_can_be_lengthened(world, caplog):
    folder, llms = world

    def stages(first: int, last: int) -> dict:
        small = {"images": first * 4, "batch": 4, "resolution": 32}
        return {"stages": [small, {"images": last * 2, "batch": 2, "resolution": 48, "rate": 0.5}]}

    for first, last in ((12, 4), (6, 10)):  # the decay's start lies in the first stage, in the last
        name = f"stages-{first}"
        go(folder, name, llms, 0, **stages(first, last))
        longer = go(folder, name, llms, 0, **stages(first, last + 8))
        straight = go(folder, f"{name}-straight", llms, 0, **stages(first, last + 8))
        assert same(longer, straight)
        assert curve(folder / name) == curve(folder / f"{name}-straight")
    assert "was made in stage" not in caplog.text
    go(folder, "stages-6", llms, 0, **stages(30, 18))
    assert "was made in stage 2 of the recipe and now lies in stage 1" in caplog.text


def test_a_checkpoint_that_says_nothing_of_the_decay_is_gone_on_from(world, caplog):
    """As one that an earlier version wrote."""
    folder, llms = world
    numbers = copy_of(folder, "older") / "step-0000016" / "numbers.json"
    kept_ = json.loads(numbers.read_text())
    for name in ("decay_factor", "losses", "stage"):
        del kept_[name]
    numbers.write_text(json.dumps(kept_))
    with caplog.at_level(logging.INFO, "lidit_train"):
        go(folder, "older", llms, LONG)
    assert "going on at step 16 of 28" in caplog.text
