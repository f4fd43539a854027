"""A run that is killed or stopped at moments that nobody chose, from its first file to its last.

As a proof: python3 run.py prove moments
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from processes import environment
from tiny_training import curve, fields, make_world, write_recipe

from lidit_core.checkpoints.lidit import read_lidit

MOMENTS = int(os.environ.get("LIDIT_MOMENTS", "0"))
STOPS = MOMENTS // 4
LONGEST = 5.0  # seconds from a run's first file to the last moment that is drawn
STEPS = 24
pytestmark = pytest.mark.skipif(not MOMENTS, reason="takes minutes: run.py prove moments")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with pictures, and the command of a run but for its folder."""
    folder = tmp_path_factory.mktemp("world")
    llms = make_world(folder)
    stages = [{"images": 4 * STEPS, "batch": 4, "resolution": 32}]
    data = fields(folder, *llms, stages=stages, checkpoints={"every": 2, "keep": 2})
    recipe = write_recipe(folder, data)
    given = [part for name, place in llms.items() for part in ("--llm", f"{name}={place}")]
    words = [sys.executable, "-m", "lidit_core", "train", str(recipe), "--device", "cpu", *given]
    subprocess.run(
        [*words, "--out", str(folder / "straight")],
        env=environment(), check=True, capture_output=True,
    )  # fmt: skip
    return folder, words


@dataclass
class Attempts:
    """One run in its folder, started again and again."""

    words: list[str]
    out: Path
    chance: random.Random
    saved: list[int] = field(default_factory=list)  # the newest checkpoint after each end
    told: list[str] = field(default_factory=list)

    def start(self, number: int) -> int:
        """Start the run and send it a signal at a moment; the status it ends with."""
        words = [*self.words, "--out", str(self.out)]
        process = subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, text=True)
        before = _files(self.out)
        while process.poll() is None and _files(self.out) == before:
            time.sleep(0.01)
        moment = self.chance.uniform(0, LONGEST)
        try:
            said = process.communicate(timeout=moment)[1]
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            said = process.communicate(timeout=120)[1]
        self.told.append(f"after {moment:.2f} s: {said[-2000:]}")
        self.saved.append(max(_checkpoints(self.out), default=0))
        return process.returncode

    def finish(self) -> None:
        words = [*self.words, "--out", str(self.out)]
        done = subprocess.run(words, env=environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]


def _files(out: Path) -> dict[str, float]:
    found = {}
    for path in out.rglob("*"):
        try:
            found[str(path)] = path.stat().st_mtime
        except FileNotFoundError:
            pass
    return found


def _checkpoints(out: Path) -> list[int]:
    names = [path.name for path in (out / "checkpoints").glob("step-*")]
    return [int(name.removeprefix("step-")) for name in names if name[5:].isdigit()]


def _same(straight: Path, out: Path) -> bool:
    a, b = (read_lidit(run / "final.safetensors")[1] for run in (straight, out))
    equal = a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    written = [(run / "final.safetensors").read_bytes() for run in (straight, out)]
    return equal and written[0] == written[1] and curve(straight) == curve(out)


@pytest.mark.parametrize(("number", "times"), [(signal.SIGKILL, MOMENTS), (signal.SIGTERM, STOPS)])
def test_a_run_that_is_killed_at_any_moment_goes_on_to_the_same_bits(world, number, times):
    folder, words = world
    seed = int(time.time())
    chance, struck = random.Random(seed), 0
    run = Attempts(words, folder / f"struck-{int(number)}", chance)
    while struck < times:
        status = run.start(number)
        why = f"seed {seed}: {run.told[-1]}"
        if status == 0:  # it ended before its moment: it must be right, and another one begins
            assert _same(folder / "straight", run.out), why
            shutil.rmtree(run.out)
            run = Attempts(words, run.out, chance)
            continue
        struck += 1
        stopped = 128 + signal.SIGTERM
        assert status == -number or (number == signal.SIGTERM and status == stopped), why
        assert "Traceback" not in run.told[-1], why
        assert run.saved == sorted(run.saved), why  # nothing that was saved is lost
        if status == stopped:
            assert f"stopped after step {run.saved[-1]} of {STEPS}, which is saved" in why
    run.finish()
    assert _same(folder / "straight", run.out), f"seed {seed}: {run.told}"


def test_a_run_goes_on_with_another_number_of_processes(world):
    """Two, one and two again, each from where the others stopped, as one process learns."""
    folder, words = world
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    turns = ((STEPS // 3, [*launcher, *words[1:]]), (STEPS * 2 // 3, words))
    for out, parts in {"turns": (*turns, (STEPS, turns[0][1])), "one": ((STEPS, words),)}.items():
        for steps, start in parts:
            length = ["--set", f"stages.0.images={4 * steps}", "--set", "optimiser.decay=0"]
            again = [*start, "--out", str(folder / out), *length]
            subprocess.run(again, env=environment(), check=True, capture_output=True)
    ours, theirs = curve(folder / "turns"), curve(folder / "one")
    assert [line["step"] for line in ours] == list(range(1, STEPS + 1))
    for a, b in zip(ours, theirs, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
