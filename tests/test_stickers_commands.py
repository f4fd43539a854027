"""The sticker commands' mistakes. Run: pytest tests/test_stickers_commands.py"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            "train_autoencoder recipes/autoencoder/stickers.yaml --out {folder} "
            "--set start=lidit_core/weights/stickers-vae.safetensors",
            "no training state",
        ),
        ("sharpness --vae nowhere.safetensors", "no file nowhere.safetensors"),
        ("ceiling --out {folder} --vae nowhere.safetensors", "no file nowhere.safetensors"),
        ("score --pictures {folder}", "00000.png cannot be read"),
    ],
)
@pytest.mark.font
def test_a_mistake_is_one_sentence(words, expected, tmp_path):
    (tmp_path / "state.pt").write_bytes(b"half")
    name, *options = words.format(folder=tmp_path).split()
    command = [sys.executable, "-m", f"stickers.{name}", *options]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"{name}: ") and ended.stderr.count("\n") == 1
    assert expected in ended.stderr
