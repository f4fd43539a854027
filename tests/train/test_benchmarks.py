"""The measurements that docs/training.md names. Run: pytest tests/train/test_benchmarks.py"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_parts_of_a_step_are_told_with_their_sum():
    options = ["--batch", "2", "--size", "32", "--steps", "1", "--depth", "1"]
    command = [sys.executable, "-m", "benchmarks.training_step", *options]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    times = {name: float(ms) for name, ms in re.findall(r"^(\w+) +([\d.]+) ms", told, re.M)}
    assert list(times) == ["forward", "backward", "clip", "AdamW", "Muon", "average", "step"]
    total = times.pop("step")
    assert total == pytest.approx(sum(times.values()), abs=0.5) and total > 0
