"""Uploading what a run has made, by huggingface_hub itself to a local endpoint.

Run: pytest tests/train/test_upload.py
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import hub

from lidit_core.errors import LiDiTError
from lidit_train.hub import check_upload

ROOT = Path(__file__).resolve().parents[2]
SHORT = ["--device", "cpu", "--set", "stages.0.images=32", "--set", "validation.every=0"]


def train(out: Path, repository: str, address: str, token: str) -> subprocess.CompletedProcess:
    words = ["train", str(ROOT / "recipes" / "smoke.yaml"), "--out", str(out), *SHORT]
    words = [sys.executable, "-m", "lidit_core", *words, "--upload", repository]
    more = {"HF_ENDPOINT": address, "HF_TOKEN": token, "HF_HUB_OFFLINE": "0"}
    more |= {"HF_HUB_DISABLE_XET": "1", "HF_HOME": str(out.parent / "hf"), "PYTHONPATH": str(ROOT)}
    environment = {**os.environ, **more, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=500)


def test_a_run_uploads_its_file_into_a_private_repository(tmp_path):
    with hub("secret") as server:
        done = train(tmp_path / "run", "me/stickers", server.address, "secret")
    assert done.returncode == 0, done.stderr
    assert server.repositories == {"me/stickers": True}
    made = (tmp_path / "run" / "final.safetensors").read_bytes()
    assert server.files == {"final.safetensors": hashlib.sha256(made).hexdigest()}
    assert server.objects == {hashlib.sha256(made).hexdigest(): made}
    told = done.stdout.splitlines()
    assert told[-1] == f"{server.address}/me/stickers/blob/main/final.safetensors"


def test_a_token_that_is_refused_is_told_before_anything_is_computed(tmp_path):
    with hub("secret") as server:
        done = train(tmp_path / "run", "me/stickers", server.address, "another")
    assert done.returncode == 2
    (told,) = [line for line in done.stderr.splitlines() if line.startswith("lidit: ")]
    assert "no repository me/stickers to upload to (" in told and "HF_TOKEN" in told
    assert not (tmp_path / "run").exists() and not server.objects


@pytest.mark.parametrize("name", ("stickers", "a/b/c", "", "../x", "me/"))
def test_what_is_no_repository_is_refused(name):
    with pytest.raises(LiDiTError, match="expected OWNER/NAME"):
        check_upload(name)


def test_without_the_package_it_is_told_how_to_get_it(monkeypatch):
    monkeypatch.setattr("lidit_train.hub.find_spec", lambda name: None)
    with pytest.raises(LiDiTError, match="pip install huggingface_hub"):
        check_upload("me/mine")
