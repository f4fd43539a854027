"""The method in one file and the notebook about it. Run: pytest tests/test_toy.py"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
TOY = ROOT / "docs" / "toy.py"


def test_it_prints_shares_and_drawings():
    command = [sys.executable, str(TOY), "--steps", "20"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    shares = re.findall(r"drawn right, (trained|held-out): \d+/(\d+) = \d+%", result.stdout)
    assert shares == [("trained", "240"), ("held-out", "48")] * 3
    assert len(re.findall(r"^    [.RGB]( [.RGB]){7}$", result.stdout, re.MULTILINE)) == 3 * 8


def test_it_can_be_read_in_one_sitting():
    assert len(TOY.read_text(encoding="utf-8").splitlines()) <= 200


def test_the_notebook_runs_from_top_to_bottom(monkeypatch, capsys):
    notebook = json.loads((ROOT / "docs" / "toy.ipynb").read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    monkeypatch.chdir(ROOT / "docs")
    monkeypatch.setattr(sys, "path", list(sys.path))
    state, names = torch.random.get_rng_state(), {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]).replace("STEPS = 30", "STEPS = 20"), names)
    torch.random.set_rng_state(state)
    sys.modules.pop("toy")
    assert names["STEPS"] == 20 and "drawn right, held-out" in capsys.readouterr().out
