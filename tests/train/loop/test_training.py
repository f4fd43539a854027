"""Whole runs of the trainer, killed, resumed, shared.

Run: pytest tests/train/loop/test_training.py
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from processes import environment, together
from tiny_training import curve, fields, make_world, recipe_of, run, write_recipe
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

from lidit_core.checkpoints.lidit import read_lidit
from lidit_core.errors import LiDiTError
from lidit_train.loop.trackers import PACKAGES
from lidit_train.run import train

SUMMATION = 2e-4  # of the largest weight of a tensor, after 8 steps in float32
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with pictures and one LLM, and where the LLM is."""
    folder = tmp_path_factory.mktemp("world")
    return folder, make_world(folder)


def command(folder: Path, recipe: Path, out: str, llms: dict[str, str], *more: str) -> list[str]:
    given = [part for name, place in llms.items() for part in ("--llm", f"{name}={place}")]
    arguments = ["train", str(recipe), "--out", str(folder / out), "--device", "cpu", *given]
    return [sys.executable, "-m", "lidit_core", *arguments, *more]


def weights(folder: Path, out: str) -> dict[str, torch.Tensor]:
    return read_lidit(folder / out / "final.safetensors")[1]


def averages(run: Path) -> dict[str, torch.Tensor]:
    """The averaged weights of a run's newest checkpoint, in float32."""
    newest = sorted((run / "checkpoints").iterdir())[-1]
    found: dict = {}
    _load_state_dict(
        found, storage_reader=FileSystemReader(newest), planner=_EmptyStateDictLoadPlanner(),
        no_dist=True,
    )  # fmt: skip
    return found["ema"]


def difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The largest, in relation to the largest weight of each tensor."""
    return max(
        (
            (a[k].float() - b[k].float()).abs().max() / b[k].float().abs().max().clamp(min=1e-3)
        ).item()
        for k in b
    )


def test_a_killed_run_goes_on_to_the_same_bits_and_the_same_curve(world):
    folder, llms = world
    slow = {"stages": [{"images": 160, "batch": 4, "resolution": 32}]}
    recipe = write_recipe(folder, fields(folder, *llms, **slow), "killed.yaml")
    straight = command(folder, recipe, "straight", llms)
    subprocess.run(straight, env=environment(), check=True, capture_output=True)
    killed = command(folder, recipe, "killed", llms)
    died_at = random.Random(time.time()).randint(5, 30)
    for stop in (died_at, died_at + 5):
        process = subprocess.Popen(
            killed, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        log = folder / "killed" / "log.jsonl"
        while process.poll() is None:
            if log.is_file() and len(log.read_text().splitlines()) >= stop:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.01)
        assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    subprocess.run(killed, env=environment(), check=True, capture_output=True)
    a, b = weights(folder, "straight"), weights(folder, "killed")
    assert all(torch.equal(a[k], b[k]) for k in a), f"killed after step {died_at}"
    files = [(folder / name / "final.safetensors").read_bytes() for name in ("straight", "killed")]
    assert files[0] == files[1], "the file's own metadata is another one"
    assert curve(folder / "straight") == curve(folder / "killed")
    assert [line["step"] for line in curve(folder / "killed")] == list(range(1, 41))


@pytest.mark.parametrize(
    ("shard", "optimiser"),
    [
        (False, "adamw"),
        (True, "muon"),
        pytest.param(True, "adamw", marks=pytest.mark.long),
        pytest.param(False, "muon", marks=pytest.mark.long),
    ],
)
def test_two_processes_reach_the_weights_of_one(world, shard, optimiser):
    folder, llms = world
    changes = {
        "compute": {"precision": "float32", "shard": shard},
        "optimiser": {"name": optimiser, "learning_rate": 3e-3, "warmup": 2},
    }
    alone = f"alone-{optimiser}"
    run(folder, alone, llms, optimiser=changes["optimiser"])
    name = f"{optimiser}-{shard}"
    recipe = write_recipe(folder, fields(folder, *llms, **changes), f"{name}.yaml")
    together(*[command(folder, recipe, name, llms)] * 2)
    assert difference(averages(folder / name), averages(folder / alone)) < SUMMATION
    ours, theirs = curve(folder / name), curve(folder / alone)
    assert all(abs(a["loss"] / b["loss"] - 1) < 1e-5 for a, b in zip(ours, theirs))


def test_a_model_that_is_divided_really_is(world):
    folder, llms = world
    data = fields(folder, *llms, compute={"precision": "float32", "shard": True})
    recipe = write_recipe(folder, data, "divided.yaml")
    (llm,) = (f"{name}={place}" for name, place in llms.items())
    words = [sys.executable, str(ROOT / "tests" / "train" / "loop" / "shard_probe.py"), str(recipe)]
    held = [json.loads(out) for out in together(*[[*words, str(folder / "divided"), llm]] * 2)]
    for name, times in {"weights": 1, "optimiser": 2, "average": 1}.items():
        parts = [h[name] for h in held]
        assert sum(parts) == times * held[0]["all"]
        assert max(parts) < 0.55 * times * held[0]["all"]


def test_with_and_without_caches_the_batches_and_losses_are_the_same(world):
    folder, llms = world
    run(folder, "cached", llms)
    run(folder, "uncached", llms, cache={"states": False, "latents": False})
    a, b = curve(folder / "cached"), curve(folder / "uncached")
    assert len(a) == 8 and all(abs(x["loss"] / y["loss"] - 1) < 1e-4 for x, y in zip(a, b))
    assert not (folder / "uncached" / "cache" / "states").exists()


def test_micro_batches_workers_and_checkpointing_change_nothing(world):
    folder, llms = world
    plain = run(folder, "plain", llms)
    for name, changes in {
        "micro": {"compute": {"micro_batch": 3, "checkpointing": True}},
        "workers": {"data": {"workers": 2}},
    }.items():
        assert difference(run(folder, name, llms, **changes), plain) < 8e-3


def test_a_run_can_be_lengthened(world):
    folder, llms = world
    run(folder, "longer", llms)
    run(folder, "longer", llms, stages=[{"images": 48, "batch": 4, "resolution": 32}])
    assert [line["step"] for line in curve(folder / "longer")] == list(range(1, 13))


def test_the_newest_checkpoint_that_can_be_read_is_taken(world):
    folder, llms = world
    whole = run(folder, "damaged", llms)
    checkpoints = folder / "damaged" / "checkpoints"
    newest = sorted(checkpoints.iterdir())[-1]
    data = next(newest.glob("*.distcp"))
    data.write_bytes(data.read_bytes()[:2000])
    again = run(folder, "damaged", llms)
    assert all(torch.equal(whole[k], again[k]) for k in whole)
    for folder_ in checkpoints.iterdir():
        data = next(folder_.glob("*.distcp"))
        data.write_bytes(b"")
    with pytest.raises(LiDiTError, match="does not fit"):
        run(folder, "damaged", llms)


def test_only_the_newest_checkpoints_and_the_last_before_the_decay_are_kept(world):
    folder, llms = world
    run(folder, "kept", llms, checkpoints={"every": 2, "keep": 3})
    assert [p.name for p in sorted((folder / "kept" / "checkpoints").iterdir())] == [
        "step-0000004", "step-0000006", "step-0000007", "step-0000008",
    ]  # fmt: skip


def test_a_gradient_that_is_no_number_is_skipped_counted_and_at_last_fatal(world):
    folder, llms = world
    recipe = recipe_of(folder, *llms, optimiser={"learning_rate": 1e30, "bad_steps": 3, "clip": 0})
    with pytest.raises(LiDiTError, match="no number for 3 steps"):
        train(recipe, folder / "nan", "cpu", llms)
    assert curve(folder / "nan")[-1]["skipped"] >= 2


def test_the_grid_is_drawn_from_the_same_noise(world):
    folder, llms = world
    run(folder, "grid", llms, validation={"every": 4, "prompts": ["a cat", "a dog"], "steps": 2})
    grids = sorted((folder / "grid" / "grids").iterdir())
    assert [g.name for g in grids] == ["0000004.png", "0000008.png"]


def test_a_disk_that_is_full_leaves_the_older_checkpoint(world):
    resource = pytest.importorskip("resource")  # Windows has none
    folder, llms = world
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(step: int, loss: float) -> None:
        if step == 6:  # no file may grow beyond 20 kB from here on
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, unlimited[1]))

    recipe = recipe_of(folder, *llms, checkpoints={"every": 4})
    try:
        with pytest.raises(LiDiTError, match="cannot be written .*; the one before it is whole"):
            train(recipe, folder / "full", "cpu", llms, fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    found = sorted(p.name for p in (folder / "full" / "checkpoints").iterdir())
    assert found == ["step-0000004"]
    again = run(folder, "full", llms, checkpoints={"every": 4})
    straight = run(folder, "not-full", llms)
    assert all(torch.equal(again[k], straight[k]) for k in again)


def test_a_tracker_is_told_and_begins_at_the_checkpoint(world):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder, llms = world
    log = {"every": 1, "trackers": ["tensorboard"]}
    drawn = {"every": 8, "prompts": ["a cat"], "steps": 1}
    run(folder, "tracked", llms, log=log, validation=drawn)
    longer = [{"images": 40, "batch": 4, "resolution": 32}]
    run(folder, "tracked", llms, log=log, validation=drawn, stages=longer)
    told = events.EventAccumulator(str(folder / "tracked" / "trackers"))
    told.Reload()
    losses = told.Scalars("loss")
    assert [event.step for event in losses] == list(range(1, 11))
    wanted = [line["loss"] for line in curve(folder / "tracked")]
    assert [event.value for event in losses] == pytest.approx(wanted)
    assert told.Tags()["images"] == ["validation"]


def test_an_unknown_tracker_is_named(world):
    folder, llms = world
    with pytest.raises(LiDiTError, match="tracker 'no such' .* expected one of tensorboard, wandb"):
        run(folder, "untracked", llms, log={"trackers": ["no such"]})


def records(path: Path) -> Iterator[bytes]:
    """What W&B wrote without a network: LevelDB's log format behind a header of 7 bytes."""
    data, whole = path.read_bytes()[7:], b""
    place = 7
    while len(data) >= 7:
        length, kind = int.from_bytes(data[4:6], "little"), data[6]
        part, data, place = data[7 : 7 + length], data[7 + length :], place + 7 + length
        whole += part
        if kind in (1, 4):  # a whole record, or the last part of one
            yield whole
            whole = b""
        if (left := 32768 - place % 32768) < 7:  # the rest of a block is empty
            data, place = data[left:], place + left


def told_to_wandb(folder: Path) -> list[dict[str, set]]:
    """Of each session that W&B keeps: id and name, keys of the recipe, of the curve, and steps."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        seen = {"name": set(), "config": set(), "keys": set(), "steps": set()}
        for data in records(path):
            record = Record.FromString(data)
            if record.HasField("run"):
                seen["name"].add((record.run.run_id, record.run.display_name))
            for change in (record.run.config, record.config):
                seen["config"] |= {item.key or item.nested_key[0] for item in change.update}
            if record.HasField("history"):
                items = record.history.item
                seen["keys"] |= {item.key or item.nested_key[0] for item in items}
                seen["steps"].add(record.history.step.num)
        found.append(seen)
    return found


def test_wandb_is_told_grids_and_recipe_and_a_resumed_run_is_the_same_run(world, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder, llms = world
    log = {"every": 1, "trackers": ["wandb"]}
    drawn = {"every": 4, "prompts": ["a cat"], "steps": 1}
    run(folder, "wandb", llms, log=log, validation=drawn)
    longer = [{"images": 40, "batch": 4, "resolution": 32}]
    run(folder, "wandb", llms, log=log, validation=drawn, stages=longer)
    first, second = told_to_wandb(folder / "wandb")
    assert first["name"] == second["name"] and {name for _, name in first["name"]} == {"wandb"}
    for seen in (first, second):
        assert {"optimiser", "stages", "seed"} <= seen["config"]
        assert {"loss", "validation"} <= seen["keys"]
    assert first["steps"] == set(range(1, 9)) and second["steps"] == {8, 9, 10}


def test_wandb_without_a_login_is_told_before_anything_is_computed(world):
    pytest.importorskip("wandb")
    folder, llms = world
    data = fields(folder, *llms, log={"trackers": ["wandb"]})
    words = command(folder, write_recipe(folder, data, "nobody.yaml"), "nobody", llms)
    nobody = environment(HOME=str(folder), NETRC=str(folder / "no-netrc"))
    nobody = {k: v for k, v in nobody.items() if k not in ("WANDB_API_KEY", "WANDB_MODE")}
    quiet = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    done = subprocess.run(words, env=nobody, **quiet)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("lidit: the recipe's tracker wandb takes no run (")
    assert "WANDB_MODE=offline" in last and not (folder / "nobody").exists()


def test_a_tracker_that_cannot_begin_ends_the_run_in_a_sentence(world, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")

    def lost(*_, **__):
        raise wandb.errors.CommError("no network\nat all")

    monkeypatch.setattr(wandb, "init", lost)
    folder, llms = world
    told = r"trackers wandb cannot be opened \(no network\); log in by `wandb login`, set"
    with pytest.raises(LiDiTError, match=told):
        run(folder, "lost", llms, log={"trackers": ["wandb"]})


def test_each_tracker_that_is_offered_has_a_test_here():
    text = Path(__file__).read_text(encoding="utf-8")
    assert all(f'"trackers": ["{name}"]' in text for name in PACKAGES)
