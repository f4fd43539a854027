"""From a recording in the host, by `lidit train`, to a CLIP in the host. Run: see conftest.py

Trained where LIDIT_TRAINING_PYTHON is a Python with the trainer's libraries.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess

import pytest
import torch
import yaml
from bridge_encoders import check_same, entries_of, host_encoder, record
from bridge_files import Bench
from conftest import ROOT
from tiny_bridge import WORDS, recording_fields

PYTHON = os.environ.get("LIDIT_TRAINING_PYTHON")
chance = random.Random(1)
PROMPTS = list({" ".join(chance.choices(WORDS, k=chance.randint(2, 9))): 0 for _ in range(120)})


def train(folder, host, **bridge) -> None:
    """Train on the recording, into the host's folder of bridges."""
    recipe = recording_fields(folder) | {"stages": [{"images": 160, "batch": 8}]}
    recipe["bridge"] |= bridge
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    words = ["-m", "lidit_core", "train", folder / "recipe.yaml", "--out", folder / "run"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [PYTHON, *words, "--device", "cpu"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    shutil.copy(
        folder / "run" / "final.safetensors",
        host.base / "models" / "bridges" / "trained.safetensors",
    )


def student(bench, folder):
    """The LLM that is trained on, as a folder for the trainer and as a CLIP."""
    listed = bench.host.base / "models" / "llm"
    for place in (folder / "student", listed / "student"):
        shutil.copytree(listed / "tiny" / "Llama", place, dirs_exist_ok=True)
    return bench.pack.run(
        "LiDiTLLMLoader", llm="student", template="none", layer="-3", token_budget=96,
        dtype="float32", device="default",
    )[0]  # fmt: skip


def rows_of(base, entries, by_row: bool):
    """The rows of one entry as they are learnt: its first words', or all joined into one."""
    rows = base.standardised(entries[0][0], None)[0, 1:]
    return rows[:5] if by_row else rows.flatten()


def nearness(base, clip, own, by_row: bool = False) -> tuple[float, float]:
    """The mean cosine of what a CLIP writes with the encoder's: of the same prompt, of another.

    Args:
        by_row: of the first words' rows alone, each by itself.

    Without the first row, which in CLIP varies with no prompt and outweighs all others.
    """
    with torch.inference_mode():
        pairs = [
            [rows_of(base, entries_of(each, text), by_row) for each in (clip, own)]
            for text in PROMPTS[:12]
        ]
    right, wrong = (
        sum(
            float(torch.cosine_similarity(ours, pairs[n - shift][1], dim=-1).mean())
            for n, (ours, _) in enumerate(pairs)
        )
        for shift in (0, 1)
    )
    return right / len(pairs), wrong / len(pairs)


@pytest.mark.skipif(not PYTHON, reason="needs LIDIT_TRAINING_PYTHON: a Python that trains")
@pytest.mark.parametrize("kind, margin", [("sd15", 0.1), ("demo", 0.04)])  # few rows are text
def test_a_recorded_encoder_is_learnt_and_written(pack, host, tmp_path, kind, margin):
    """What it writes is nearer to its own prompt's than to another's; the empty one is exact."""
    bench = Bench(pack, host)
    own = pack.run("LLMDiffDemoCheckpoint")[1] if kind == "demo" else host_encoder(kind)
    odd = ["a (red:1.3) cat"]
    folder = record(pack, host, own, f"to-learn-{kind}", [*odd, *PROMPTS])
    shutil.copytree(folder, tmp_path / "recording")
    llm = student(bench, tmp_path)
    train(tmp_path, host)
    bridge = bench.load("trained.safetensors")
    told = json.loads(bridge.report)["bridge"]
    assert told["prompts"] >= 10 and told["cosine"] > 0.5
    clip = bench.clip(bridge, llm)
    check_same(entries_of(clip, ""), entries_of(own, ""))
    right, wrong = nearness(bridge.bridge.base, clip, own)
    assert right > wrong + margin


@pytest.mark.long
@pytest.mark.skipif(not PYTHON, reason="needs LIDIT_TRAINING_PYTHON: a Python that trains")
def test_what_another_encoder_knows_is_added_to_the_checkpoints_own(pack, host, tmp_path):
    bench, own, better = Bench(pack, host), host_encoder("sd15"), host_encoder("sd15", seed=1)
    for name, clip in (("recording", better), ("own", own)):
        shutil.copytree(record(pack, host, clip, f"add-{name}", PROMPTS), tmp_path / name)
    llm = student(bench, tmp_path)
    train(tmp_path, host, add=str(tmp_path / "own"))
    bridge = bench.load("trained.safetensors")
    told = json.loads(bridge.report)
    assert told["bridge"]["cosine"] > told["encoder"]["cosine"] + 0.1
    clip = bench.clip(bridge, llm, encoder=own)
    check_same(entries_of(clip, ""), entries_of(own, ""))
    before, after = (nearness(bridge.bridge.base, c, better, by_row=True)[0] for c in (own, clip))
    assert after > before + 0.05
