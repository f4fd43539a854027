"""The smoke recipe takes the steps that it took before. Run: pytest tests/train/loop -k golden

Where a change of the curve is meant, write it anew, and say in the commit why it changed:
    lidit train recipes/smoke.yaml --out runs/smoke --device cpu
    python tests/train/loop/test_golden_curve.py runs/smoke
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

GOLDEN = Path(__file__).with_name("golden") / "smoke.jsonl"
ROOT = Path(__file__).resolve().parents[3]
CLOCK = ("at", "images/s")


def curve_of(log: Path) -> list[dict[str, float]]:
    """The log's lines without what the clock says."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in line.items() if k not in CLOCK} for line in lines]


def test_the_golden_curve_of_smoke(tmp_path):
    from lidit_train.recipe_file import read_recipe
    from lidit_train.run import train

    train(read_recipe(ROOT / "recipes" / "smoke.yaml"), tmp_path, "cpu")
    ours, golden = curve_of(tmp_path / "log.jsonl"), curve_of(GOLDEN)
    for line, expected in zip(ours, golden, strict=True):
        assert line.keys() == expected.keys()
        # five other roundings (threads, kernels) of one CPU differed by 1.1e-4 at most
        assert line == pytest.approx(expected, rel=1e-3)


def test_the_curve_is_written_anew_by_its_command(tmp_path):
    """A copy of this file, so that the curve of the repository stays."""
    script, golden = tmp_path / Path(__file__).name, tmp_path / "golden" / GOLDEN.name
    shutil.copy(__file__, script)
    golden.parent.mkdir()
    told = {"step": 10, "loss": 1.5, "at": 1e9, "images/s": 7.0}
    (tmp_path / "log.jsonl").write_text(json.dumps(told) + "\n")
    subprocess.run([sys.executable, script, tmp_path], check=True)
    assert curve_of(golden) == [{"step": 10, "loss": 1.5}] == curve_of(tmp_path / "log.jsonl")


if __name__ == "__main__":
    lines = curve_of(Path(sys.argv[1]) / "log.jsonl")
    GOLDEN.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
