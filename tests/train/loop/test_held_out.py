"""Held-out pictures: which they are, what is measured of them, and what follows.

Run: pytest tests/train/loop/test_held_out.py
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from processes import together
from tiny_adapter_training import adapter_fields, write_demo_checkpoint
from tiny_llm import save_llm
from tiny_training import curve, fields, make_world, pictures, recipe_of, save_encoder, write_recipe

from lidit_core.diffusion.times import even_times
from lidit_core.errors import LiDiTError
from lidit_core.io.tensors import read_safetensors
from lidit_train.data.schedule import held_out
from lidit_train.loop.parallel import accelerator_for
from lidit_train.recipe import Recipe
from lidit_train.recipe_file import read_recipe
from lidit_train.run import begin_run, train

HELD = {"every": 2, "held_out": 0.25, "times": 3}
START = {**HELD, "at_start": True}
LOSS = "held-out loss"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    return folder, make_world(folder)


def data_of(task: str, folder: Path, **changes) -> dict:
    changes = {"validation": HELD, "cache": {"folder": str(folder / "cache")}, **changes}
    if task != "adapter":
        return fields(folder, trains=task, **changes)
    pytest.importorskip("diffusers")
    if not (folder / "base.safetensors").exists():
        write_demo_checkpoint(folder / "base.safetensors")
        save_llm(folder / "llm", num_hidden_layers=2, hidden_size=16)
    return adapter_fields(folder, **changes)


def recipe(task: str, folder: Path, **changes) -> Recipe:
    return read_recipe(write_recipe(folder, data_of(task, folder, **changes)))


def measured(run: Path) -> dict[int, float]:
    return {line["step"]: line[LOSS] for line in curve(run) if LOSS in line}


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return read_safetensors(path)[0]


def same(a: Path, b: Path) -> bool:
    ours, theirs = tensors(a), tensors(b)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_which_pictures_are_held_out_is_decided_by_their_names_alone():
    names = [f"{n:03}.png" for n in range(200)]
    held = {name for name, out in zip(names, held_out(names, 0.1)) if out}
    assert len(held) == 20
    assert {n for n, out in zip(names[::-1], held_out(names[::-1], 0.1)) if out} == held
    assert held <= {n for n, out in zip(names, held_out(names, 0.2)) if out}
    twice = [*names, *names]
    assert {n for n, out in zip(twice, held_out(twice, 0.1)) if out} == held
    assert held_out(names[:3], 0.01).sum() == 1 and held_out(names[:2], 0.9).sum() == 1
    assert held_out(names[:1], 0.9).sum() == 0 and held_out(names, 0.0).sum() == 0


@pytest.mark.parametrize("prediction", ["flow", "eps", "v"])
def test_times_are_spread_evenly_and_of_a_schedule_its_steps(prediction):
    times = even_times(prediction, 4)
    torch.testing.assert_close(times, torch.tensor([0.125, 0.375, 0.625, 0.875]))
    odd = 1000 * even_times(prediction, 7)
    assert prediction == "flow" or torch.equal(odd, odd.round())


@pytest.mark.parametrize("task", ["all", "adapter"])
def test_they_are_measured_and_not_trained_on_and_the_best_step_is_left_as_a_file(world, task):
    folder, llms = world
    made, out = recipe(task, folder), folder / f"plain-{task}"
    final = train(made, out, "cpu", llms)
    losses = measured(out)
    assert list(losses) == [2, 4, 6, 8] and len(set(losses.values())) == 4
    (line, *_) = [line for line in curve(out) if LOSS in line]
    by_time = [value for name, value in line.items() if name.startswith(f"{LOSS} at ")]
    assert len(by_time) == 3 and line[LOSS] == pytest.approx(sum(by_time) / 3)
    best = min(losses, key=losses.__getitem__)
    assert same(out / "best.safetensors", out / "weights" / f"best-{best:07d}.safetensors")
    assert same(out / "best.safetensors", final) == (best == 8)
    run = begin_run(made, out, accelerator_for(made.compute, "cpu"), llms)
    batches = run.trainer.validator.measure.func.__self__.held_out.batches
    held = {(s.source, s.index) for batch in batches for s in batch.samples}
    drawn = {(row.source, row.index) for plan in run.ready.schedule for row in plan.rows}
    assert len(held) == 3 and len(drawn) == 9 and not held & drawn


@pytest.mark.parametrize("task", ["all", "adapter"])
def test_a_measurement_is_the_same_in_every_run(world, task):
    folder, llms = world
    found = []
    for changes in ({}, {"seed": 3, "stages": [{"images": 8, "batch": 2, "resolution": 32}]}):
        made = recipe(task, folder, **changes)
        run = begin_run(made, folder / "none", accelerator_for(made.compute, "cpu"), llms)
        weights = torch.Generator().manual_seed(5)
        for parameter in run.trainer.learner.parameters():
            if parameter.requires_grad:
                parameter.data.normal_(0, 0.05, generator=weights)
        torch.manual_seed(len(found))
        found += [run.trainer.validator.measure(), run.trainer.validator.measure()]
    assert found[0] == found[1] == found[2] == found[3]


class Killed(Exception):
    pass


@pytest.mark.parametrize("task", ["all", "adapter"])
def test_a_killed_run_measures_and_keeps_the_same(world, task):
    folder, llms = world
    made = recipe(task, folder, checkpoints={"every": 3}, validation=START)

    def kill(step: int, loss: float) -> None:
        if step == 5:
            raise Killed

    straight, killed = folder / f"straight-{task}", folder / f"killed-{task}"
    train(made, straight, "cpu", llms)
    with pytest.raises(Killed):
        train(made, killed, "cpu", llms, kill)
    train(made, killed, "cpu", llms)
    assert curve(straight) == curve(killed) and list(measured(killed)) == [0, 2, 4, 6, 8]
    for name in ("best.safetensors", "final.safetensors"):
        assert same(straight / name, killed / name)
    ours, theirs = (sorted(p.name for p in (r / "weights").iterdir()) for r in (straight, killed))
    assert ours == theirs


def test_measuring_changes_nothing_that_is_learnt(world):
    folder, llms = world
    often, seldom = (
        train(recipe("all", folder, validation={**HELD, "every": n}), folder / f"every-{n}", "cpu",
              llms) for n in (1, 8)
    )  # fmt: skip
    assert same(often, seldom)


@pytest.mark.long
@pytest.mark.parametrize(("task", "shard"), [("all", False), ("adapter", False), ("all", True)])
def test_two_processes_measure_what_one_does(world, task, shard):
    folder, llms = world
    alone = folder / f"one-{task}"
    if not alone.exists():
        train(recipe(task, folder, validation=START), alone, "cpu", llms)
    out = folder / f"two-{task}-{shard}"
    data = data_of(task, folder, validation=START, compute={
        "precision": "float32", "shard": shard,
    })  # fmt: skip
    words = ["train", str(write_recipe(folder, data, f"{out.name}.yaml")), "--out", str(out)]
    places = [] if task == "adapter" else [f"--llm={k}={v}" for k, v in llms.items()]
    words = [sys.executable, "-m", "lidit_core", *words, "--device", "cpu", *places]
    together(*[words] * 2)
    ours, theirs = measured(out), measured(alone)
    assert ours[0] == pytest.approx(theirs[0], rel=1e-6)
    # an adapter draws its Langevin noise by the batch of a process, and so learns otherwise
    assert ours == pytest.approx(theirs, rel=1e-3 if task == "adapter" else 1e-4)
    assert (out / "best.safetensors").is_file()


def test_a_run_ends_when_its_patience_is_used_up(world, caplog):
    folder, llms = world
    still, out = {"learning_rate": 0.0}, folder / "patient"
    made = recipe("all", folder, optimiser=still, validation={**HELD, "patience": 2})
    steps = []
    with caplog.at_level("INFO", "lidit_train"):
        final = train(made, out, "cpu", llms, lambda step, loss: steps.append(step))
    assert steps == [1, 2, 3, 4, 5, 6] and list(measured(out)) == [2, 4, 6]
    assert "no lower in 2 measurements since step 2" in caplog.text
    assert "the run ends after step 6 of 8" in caplog.text
    before, steps = tensors(final), []
    assert train(made, out, "cpu", llms, lambda step, loss: steps.append(step)) == final
    assert not steps and all(torch.equal(tensors(final)[k], before[k]) for k in before)
    longer = recipe("all", folder, optimiser=still, validation={**HELD, "patience": 3})
    train(longer, out, "cpu", llms, lambda step, loss: steps.append(step))
    assert steps == [7, 8] and list(measured(out)) == [2, 4, 6, 8]


@pytest.mark.parametrize("latents", [True, False])
def test_masks_count_in_what_is_measured_and_what_is_aligned_does_not(world, tmp_path, latents):
    folder, llms = world
    save_encoder(tmp_path / "encoder")
    for file in pictures(tmp_path / "pictures").glob("*.png"):
        Image.new("L", (48, 48), 0).save(file.with_suffix(".mask.png"))

    def measure(**changes) -> float:
        source = {"kind": "folder", "path": str(tmp_path / "pictures"), **changes}
        aligned = {"encoder": str(tmp_path / "encoder"), "block": 0, "hidden": 32}
        changes = {"cache": {"latents": latents}, "data": {"sources": [source]}}
        losses = []
        for more in ({}, {"alignment": aligned}):
            made = recipe("all", folder, **changes, **more)
            begun = begin_run(made, tmp_path / "run", accelerator_for(made.compute, "cpu"), llms)
            losses.append(begun.trainer.validator.measure()[LOSS])
        assert losses[0] == losses[1]
        return losses[0]

    plain = measure()
    assert measure(mask="mask.png") == 0
    assert measure(mask="mask.png", outside=0.5) == pytest.approx(0.5 * plain)
    assert measure(loss_weight=0.25) == pytest.approx(0.25 * plain)


def test_losses_of_other_pictures_are_not_compared(world):
    folder, llms = world
    out, stages = folder / "others", [{"images": 16, "batch": 4, "resolution": 32}]
    train(recipe("all", folder, stages=stages), out, "cpu", llms)
    numbers = json.loads((out / "checkpoints" / "step-0000004" / "numbers.json").read_text())
    assert numbers["best"]["step"] in (2, 4)
    train(recipe("all", folder, validation={**HELD, "times": 5}), out, "cpu", llms)
    assert json.loads((out / "checkpoints/step-0000008/numbers.json").read_text())["best"][
        "measured"
    ] != numbers["best"]["measured"]  # fmt: skip


def test_a_held_out_picture_that_is_broken_is_told_and_left_out(world, caplog):
    folder, llms = world
    broken = shutil.copytree(folder / "pictures", folder / "broken")
    names = sorted(p.name for p in broken.glob("*.png"))
    held = [name for name, out in zip(names, held_out(names, 0.25)) if out]
    cut = broken / held[0]
    cut.write_bytes(cut.read_bytes()[:700])
    source = {"sources": [{"kind": "folder", "path": str(broken)}]}
    with caplog.at_level("INFO", "lidit_train"):
        train(recipe("all", folder, data=source), folder / "broken-run", "cpu", llms)
    assert f"1 pictures that are held out cannot be decoded and are not measured: {held[0]}" in (
        caplog.text
    )
    assert "2 pictures are held out and measured at 3 times each" in caplog.text
    assert len(measured(folder / "broken-run")) == 4


def test_a_tracker_shows_the_loss(world):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder, llms = world
    log = {"every": 1, "trackers": ["tensorboard"]}
    train(recipe("all", folder, log=log), folder / "tracked", "cpu", llms)
    told = events.EventAccumulator(str(folder / "tracked" / "trackers"))
    told.Reload()
    shown = {event.step: event.value for event in told.Scalars(LOSS)}
    assert shown == pytest.approx(measured(folder / "tracked"), rel=1e-6)


def test_what_cannot_be_measured_is_refused(world):
    folder, llms = world
    for validation, told in (
        ({"patience": 3}, "patience=3, which counts measurements of held-out pictures"),
        ({"held_out": 0.1, "every": 9}, "every 9 steps of 8; set validation.every to 8 or fewer"),
        ({"held_out": 0.1, "every": 0}, "every 0 steps of 8"),
        ({"held_out": 0.95}, "held_out=0.95; expected 0 to 0.9"),
        ({"held_out": 0.5, "times": 0}, "times=0; expected 1 to 1000"),
    ):
        with pytest.raises(LiDiTError, match=told):
            recipe_of(folder, validation=validation)
    one = {"sources": [{"kind": "folder", "path": str(pictures(folder / "one", 1))}]}
    with pytest.raises(LiDiTError, match="no source has more than one; bring more"):
        train(recipe("all", folder, data=one), folder / "one-run", "cpu", llms)
