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


def train(folder, host) -> None:
    """Train on the recording, into the host's folder of bridges."""
    recipe = recording_fields(folder) | {"stages": [{"images": 160, "batch": 8}]}
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


@pytest.mark.skipif(not PYTHON, reason="needs LIDIT_TRAINING_PYTHON: a Python that trains")
def test_a_recorded_encoder_is_learnt_and_written(pack, host, tmp_path):
    """What it writes is nearer to its own prompt's than to another's; the empty one is exact."""
    bench, own = Bench(pack, host), host_encoder("sd15")
    odd = ["a (red:1.3) cat"]
    shutil.copytree(record(pack, host, own, "to-learn", [*odd, *PROMPTS]), tmp_path / "recording")
    shutil.copytree(host.base / "models" / "llm" / "tiny" / "Llama", tmp_path / "student")
    train(tmp_path, host)
    bridge = bench.load("trained.safetensors")
    told = json.loads(bridge.report)["bridge"]
    assert told["prompts"] >= 10 and told["cosine"] > 0.5
    shutil.copytree(tmp_path / "student", host.base / "models" / "llm" / "student")
    llm = pack.run(
        "LiDiTLLMLoader", llm="student", template="none", layer="-3", token_budget=96,
        dtype="float32", device="default",
    )[0]  # fmt: skip
    clip = bench.clip(bridge, llm)
    check_same(entries_of(clip, ""), entries_of(own, ""))
    base = bridge.bridge.base
    with torch.inference_mode():
        pairs = [
            [base.standardised(entries_of(each, text)[0][0]).flatten() for each in (clip, own)]
            for text in PROMPTS[:12]
        ]
    right = [torch.cosine_similarity(ours, theirs, dim=0) for ours, theirs in pairs]
    wrong = [
        torch.cosine_similarity(pairs[n][0], pairs[n - 1][1], dim=0) for n in range(len(pairs))
    ]
    assert sum(right) > sum(wrong) + 0.1 * len(pairs)
