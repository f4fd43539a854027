"""A recording of 2,000 prompts whose process is killed twice. Run: pytest tests/train/prompts

As a proof: python3 run.py prove kills
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import environment
from safetensors.torch import save_file

from lidit_core.cli import main
from lidit_core.demo.checkpoint import SHIPPED, TEXT_PREFIX
from lidit_core.io.recording import open_recording
from lidit_core.io.tensors import read_safetensors
from lidit_core.paths import is_hidden
from lidit_train.prompts.collection import Lists, collect

COUNT = 2000
LISTS = Lists([f"noun{n}" for n in range(3000)], ["soft", "wet"], ["red fox", "owl"])
WEIGHTS = Path(__file__).resolve().parents[3] / "lidit_core" / "weights" / SHIPPED


@pytest.fixture
def prompts(tmp_path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(collect(LISTS, COUNT, seed=0)) + "\n", encoding="utf-8")
    return path


def words(prompts: Path, out: Path, model: str = "stickers-sd") -> list[str]:
    return ["record", str(prompts), "--model", model, "--out", str(out)]


def shards(out: Path) -> int:
    return len(list(out.glob("0*.safetensors")))


def kill_after(prompts: Path, out: Path, count: int, moment: float) -> int:
    """Kill a recording some seconds after it has so many shards; how many it left."""
    command = [sys.executable, "-m", "lidit_core", *words(prompts, out)]
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL)
    while process.poll() is None and shards(out) < count:
        time.sleep(0.001)
    time.sleep(moment)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    return shards(out)


def files(out: Path) -> dict[str, bytes]:
    """All but what a process that died was about to write, by our names or by safetensors'."""
    whole = (p for p in out.iterdir() if p.suffix != ".part" and not is_hidden(p))
    return {path.name: path.read_bytes() for path in whole}


def changed_checkpoint(path: Path) -> Path:
    """The demo checkpoint, its table of words moved by 2 %."""
    tensors, metadata = read_safetensors(WEIGHTS)
    table = tensors[f"{TEXT_PREFIX}words.weight"]
    table += 0.02 * table.norm() / table.numel() ** 0.5
    save_file(tensors, path, metadata)
    return path


def test_a_recording_killed_twice_is_whole_and_the_bytes_of_one_that_was_not(
    tmp_path, prompts, capsys
):
    whole, again, killed = (tmp_path / name for name in ("whole", "again", "killed"))
    for out in (whole, again):
        assert main(words(prompts, out)) == 0
    assert files(whole) == files(again)

    chance = random.Random(seed := time.time_ns())
    left = [0]
    for most in (12, 24):
        count = chance.randint(left[-1] + 1, most)
        left.append(kill_after(prompts, killed, count, chance.uniform(0, 0.05)))
        missing = open_recording(killed).missing()
        assert missing == list(range(left[-1], 32)), f"seed {seed}: {left}"
        assert left[-2] < left[-1] < 32, f"seed {seed}: {left}"

    before, other = files(killed), changed_checkpoint(tmp_path / "other.safetensors")
    capsys.readouterr()
    assert main(words(prompts, killed, str(other))) != 0
    assert f"is not the one that {killed} was begun with" in capsys.readouterr().err
    assert files(killed) == before, f"seed {seed}: {left}"

    assert main(words(prompts, killed)) == 0
    assert files(killed) == files(whole), f"seed {seed}: {left}"
    assert len(open_recording(killed).texts()) == COUNT
