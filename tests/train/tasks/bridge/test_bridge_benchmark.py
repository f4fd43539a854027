"""What `benchmarks/bridge.py` times is what is trained. Run: pytest tests/train/tasks/bridge"""

from __future__ import annotations

import pytest
from tiny_llm import save_llm

from benchmarks.bridge import WINDOW, batch_of, config_of, rows_like_clips, shown, step_of, student
from lidit_core.bridge.config import TeacherSpec
from lidit_core.llm.loading import load_llm
from lidit_core.text.encoder import LLMEncoder

PROMPTS = ["a red cat", "two dogs left of an apple", "three bees"]


def test_a_step_has_77_queries_a_prompt_and_learns(tmp_path):
    encoder = LLMEncoder(load_llm(save_llm(tmp_path / "student")), "none")
    maker = rows_like_clips(encoder)
    teacher = TeacherSpec("tiny", 24, maker.tokenizer.get_vocab_size(), maker.layout, 24)
    config = config_of(student(encoder), teacher, width=32, heads=2)
    batch = batch_of(encoder, config, PROMPTS)
    assert batch.x.shape == (3, WINDOW, 24) and batch.rows.ids.shape == (3, WINDOW)
    step = step_of(config, batch)
    losses = [step() for _ in range(12)]
    assert losses[-1] < losses[0]


def test_both_of_a_pair_are_told_and_their_ratio_is_of_each_pair():
    told = shown("one", "other", [(4.0, 2.0), (9.0, 3.0), (1.0, 1.0)], 3.0)
    assert [row[0] for row in told] == ["one, seconds", "other, seconds", "one, by other"]
    assert [row[1] for row in told] == pytest.approx([4.0, 2.0, 2.0]) and told[2][2] == 3.0
