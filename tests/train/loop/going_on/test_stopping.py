"""What a run leaves that can be drawn with before it ends, and what Ctrl-C and SIGTERM leave.

Run: pytest tests/train/loop/going_on/test_stopping.py
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from processes import environment
from tiny_training import curve, fields, make_world, recipe_of, run, write_recipe

from lidit_core.checkpoints.lidit import load_lidit, read_lidit
from lidit_core.cli import main
from lidit_core.errors import LiDiTError
from lidit_train.loop.stopping import Stopped
from lidit_train.loop.validating.grid import Grid
from lidit_train.loop.validating.held_out_loss import HeldOutLoss
from lidit_train.recipe_file import read_recipe
from lidit_train.run import export, train


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with pictures and one LLM, and where the LLM is."""
    folder = tmp_path_factory.mktemp("world")
    return folder, make_world(folder)


def files(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "weights").glob("*"))


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return read_lidit(path)[1]


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_every_save_leaves_a_file_that_loads_and_as_many_stay_as_checkpoints(world):
    folder, llms = world
    run(folder, "saved", llms, checkpoints={"every": 2, "keep": 3})
    out = folder / "saved"
    kept = [4, 6, 7]  # 7 is the last before the decay, and 8 is the final file
    assert files(out) == [f"step-{step:07d}.safetensors" for step in kept]
    found = [tensors(out / "weights" / name) for name in files(out)]
    assert not equal(found[0], found[1]) and not equal(found[2], tensors(out / "final.safetensors"))
    for name in files(out):
        assert load_lidit(out / "weights" / name).config.latent.rgb_factors


def test_the_file_of_a_checkpoint_is_written_again_when_asked_for(world, capsys, caplog):
    folder, llms = world
    run(folder, "exported", llms, checkpoints={"every": 2, "keep": 3})
    out = folder / "exported"
    before = tensors(out / "weights" / "step-0000004.safetensors")
    (out / "weights" / "step-0000004.safetensors").unlink()
    recipe = folder / "recipe.yaml"
    given = [word for name, place in llms.items() for word in ("--llm", f"{name}={place}")]
    words = ["train", str(recipe), "--out", str(out), "--device", "cpu", *given]
    caplog.clear()
    assert main([*words, "--export", "4"]) == 0
    written = Path(capsys.readouterr().out.strip())
    assert written == out / "weights" / "step-0000004.safetensors"
    assert equal(tensors(written), before)
    assert main([*words, "--export", "4", "--set", "checkpoints.weights=plain"]) == 0
    assert not equal(tensors(written), before)
    last = export(read_recipe(recipe), out, 8, "cpu", llms)
    assert equal(tensors(last), tensors(out / "final.safetensors"))
    assert "going on" not in caplog.text and "final file" not in caplog.text  # no run goes on
    with pytest.raises(LiDiTError, match="no checkpoint of step 5; expected .*: 4, 6, 7, 8"):
        export(read_recipe(recipe), out, 5, "cpu", llms)


def test_weights_that_are_not_wanted_are_not_written(world):
    folder, llms = world
    run(folder, "none", llms, checkpoints={"every": 2, "weights": "none"})
    assert files(folder / "none") == []


def command(folder: Path, out: str, llms: dict[str, str]) -> list[str]:
    slow = {"stages": [{"images": 160, "batch": 4, "resolution": 32}], "data": {"workers": 1}}
    data = fields(folder, *llms, **slow, checkpoints={"every": 100})
    data["data"]["sources"] = [{"kind": "folder", "path": str(folder / "pictures")}]
    recipe = write_recipe(folder, data, "slow.yaml")
    given = [part for name, place in llms.items() for part in ("--llm", f"{name}={place}")]
    arguments = ["train", str(recipe), "--out", str(folder / out), "--device", "cpu", *given]
    return [sys.executable, "-m", "lidit_core", *arguments]


def stopped(words: list[str], out: Path, number: int, step: int) -> tuple[int, str]:
    """The status and the words of a run that is sent a signal, with all that it started."""
    process = subprocess.Popen(
        words, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    log = out / "log.jsonl"
    while process.poll() is None and not (
        log.is_file() and len(log.read_text().splitlines()) >= step
    ):
        time.sleep(0.01)
    if number == signal.SIGINT:  # a terminal sends it to the readers ahead as well
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    return process.returncode, said


def test_signals_save_the_step_and_the_run_goes_on_to_the_same_bits(world):
    folder, llms = world
    straight = command(folder, "straight", llms)
    subprocess.run(straight, env=environment(), check=True, capture_output=True)
    words, out = command(folder, "stopped", llms), folder / "stopped"
    first = random.Random(time.time()).randint(3, 8)
    for number, step in ((signal.SIGTERM, first), (signal.SIGINT, first + 8)):
        status, said = stopped(words, out, number, step)
        assert status == 128 + number, said
        assert "Traceback" not in said and "KeyboardInterrupt" not in said
        (after,) = re.findall(r"lidit: stopped after step (\d+) of 40, which is saved", said)
        assert step <= int(after) < 40
        newest = max((out / "checkpoints").iterdir())
        assert newest.name == f"step-{int(after):07d}"
        assert load_lidit(out / "weights" / f"{newest.name}.safetensors")
    subprocess.run(words, env=environment(), check=True, capture_output=True)
    a, b = tensors(folder / "straight" / "final.safetensors"), tensors(out / "final.safetensors")
    assert equal(a, b), f"stopped after step {first}"
    assert curve(folder / "straight") == curve(out)


WHERE = {  # whose work a signal comes into, after which step, and what is told
    "a grid": (Grid, "draw", 4, "stopped after step 4 of 8, which is saved"),
    "a measurement": (HeldOutLoss, "measure", 4, "stopped after step 4 of 8, which is saved"),
    "the last step": (None, "", 7, "stopped after step 8 of 8, which is saved"),
    "the first grid": (Grid, "draw", 0, "stopped before the first step"),
}


@pytest.mark.parametrize("where", WHERE)
def test_no_validation_holds_a_stop_up_and_the_run_that_goes_on_makes_it(world, where, monkeypatch):
    folder, llms = world
    owner, name, step, told = WHERE[where]
    drawn = {"every": 4, "at_start": True, "prompts": ["a cat"], "steps": 1}
    held = {**drawn, "held_out": 0.25, "times": 2}
    recipe = recipe_of(folder, *llms, validation=held, checkpoints={"every": 100})
    straight, out, made = folder / "seen", folder / where.replace(" ", "-"), [0]
    if not straight.exists():
        train(recipe, straight, "cpu", llms)
    method = getattr(owner, name, None)

    def on_step(number: int, loss: float) -> None:
        made[0] = number
        if owner is None and number == step:  # its loss is known: the next step is the last one
            os.kill(os.getpid(), signal.SIGTERM)

    def held_up(*words):
        if made[0] < step:
            return method(*words)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
        raise AssertionError("it was not interrupted")

    with monkeypatch.context() as patched:
        if owner is not None:
            patched.setattr(owner, name, held_up)
        with pytest.raises(Stopped, match=told):
            train(recipe, out, "cpu", llms, on_step)
    saved = sorted(path.name for path in out.glob("checkpoints/step-*"))
    assert saved == {0: [], 4: ["step-0000004"]}.get(step, ["step-0000007", "step-0000008"])
    train(recipe, out, "cpu", llms)
    assert curve(out) == curve(straight)
    files = [*straight.glob("grids/*.png"), *straight.glob("*.safetensors")]
    assert len(files) == 5  # three grids, the best step and the last
    for file in files:
        assert (out / file.relative_to(straight)).read_bytes() == file.read_bytes(), file


FAILS = """
import os, signal
from lidit_train.loop.stopping import Signals
try:
    with Signals():
        raise RuntimeError
except RuntimeError:
    os.kill(os.getpid(), signal.SIGTERM)
    print("said why")
"""


@pytest.mark.parametrize(("processes", "status"), [(1, -signal.SIGTERM), (2, 0)])
def test_a_launcher_ends_no_process_before_it_has_said_why_it_fails(processes, status):
    """Which sends a signal to those whose neighbour has failed, as soon as that one has."""
    launched = {**environment(), "WORLD_SIZE": str(processes)}
    told = subprocess.run([sys.executable, "-c", FAILS], env=launched, capture_output=True)
    assert (told.returncode, told.stdout.strip()) == (status, b"said why" * (status == 0))
