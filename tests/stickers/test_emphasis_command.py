"""The command that measures weights of words.

Run: pytest tests/stickers/test_emphasis_command.py
"""

from __future__ import annotations

import json

import pytest
from tiny_lidit import lidit_config, save_lidit_files
from tiny_llm import save_llm

from lidit_core.errors import LiDiTError
from lidit_stickers.emphasis import main, summed
from lidit_stickers.scorer.scorer import FoundObject, FoundScene


def found(kind: str, side: float) -> FoundObject:
    return FoundObject(kind, None, (0.1, 0.1, 0.1 + side, 0.1 + side), 1.0)


def test_a_row_counts_what_the_scorer_reads():
    scenes = [
        FoundScene("blue", (found("dog", 0.5), found("cat", 0.2), found("cat", 0.2))),
        FoundScene(None, (found("cat", 0.3),)),
    ]
    row = summed(0.5, scenes)
    assert (row.weight, row.dog, row.cat, row.cats, row.background) == (0.5, 0.5, 1.0, 1.5, 0.5)
    assert row.dog_area == pytest.approx(0.125)


def test_the_command_draws_every_weight_and_writes_what_it_prints(tmp_path, capsys):
    model = save_lidit_files(tmp_path, lidit_config("one"))
    llm = f"one={save_llm(tmp_path / 'one')}"
    words = ["--model", str(model), "--llm", llm, "--seeds", "1", "--weights", "0", "2"]
    assert main([*words, "--device", "cpu", "--out", str(tmp_path / "rows.json")]) == 0
    written = json.loads((tmp_path / "rows.json").read_text())
    assert [row["weight"] for row in written["rows"]] == [0, 2] and written["seeds"] == 1
    assert capsys.readouterr().out.count("\n") == 4
    with pytest.raises(LiDiTError, match="--seeds is 0"):
        main([*words[:4], "--seeds", "0"])
