"""The stickers' training beside an older commit's. Run: pytest tests/train/test_throughput.py

The measurement itself takes half an hour on an idle machine: python3 run.py prove throughput
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.older_tree import ROOT, take_out
from benchmarks.throughput import Timed, timed, verdict, write_recipe
from lidit_core.errors import LiDiTError
from lidit_train.recipe import Compute
from lidit_train.recipe_file import read_recipe


@pytest.mark.skipif(not os.environ.get("LIDIT_THROUGHPUT"), reason="half an hour")
def test_the_stickers_are_trained_faster_than_before():
    assert subprocess.call([sys.executable, "-m", "benchmarks.throughput"], cwd=ROOT) == 0


def test_the_first_steps_are_not_timed_and_the_others_by_their_seconds():
    lines = [{"step": 5 * n, "images/s": n, "loss": 1 / n} for n in (1, 2, 3, 4)]
    assert timed(lines, batch=8) == Timed(speed=80 / (40 / 3 + 40 / 4), loss=0.25)


@pytest.mark.parametrize(
    ("faster", "loss", "status"), [(1.2, 1.0001, 0), (1.1, 1.0, 1), (1.2, 1.01, 1)]
)
def test_it_holds_where_it_is_faster_and_learns_the_same(faster, loss, status, capsys):
    before = [Timed(speed, 1.0) for speed in (10.0, 12.0, 11.0)]
    today = [Timed(faster * one.speed, loss) for one in before]
    assert verdict(before, today) == status
    told = capsys.readouterr().out
    assert f"{faster:.3f} times as fast" in told and ("MORE THAN" in told) == (loss == 1.01)


def test_the_recipe_is_the_stickers_and_a_commit_that_is_not_there_is_told(tmp_path: Path):
    recipe = read_recipe(write_recipe(tmp_path / "recipe.yaml", tmp_path, steps=20, batch=64))
    shipped = read_recipe(ROOT / "recipes" / "stickers.yaml")
    assert recipe.optimiser == shipped.optimiser
    assert recipe.stages[0].subsets == shipped.stages[0].subsets and recipe.steps == 20
    assert recipe.compute == Compute() != shipped.compute
    path = write_recipe(tmp_path / "computed.yaml", tmp_path, steps=20, batch=64, computed=True)
    assert read_recipe(path).compute == shipped.compute
    with pytest.raises(LiDiTError, match="no-such-commit cannot be taken out"):
        take_out("no-such-commit", tmp_path / "tree")
