"""Recordings of a text encoder. Run: pytest tests/core/io/test_recording.py"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lidit_core.errors import LiDiTError
from lidit_core.io.recording import NAME, SHARD, open_recording, record

PROMPTS = [f"{n} cats" for n in range(2 * SHARD + 5)]


class Encoder:
    """Gives other numbers for other prompts; it may be stopped at one, or changed."""

    def __init__(
        self,
        stop_at: str | None = None,
        change: float = 0.0,
        length: int = 4,
        pooled: float = 1.0,
    ) -> None:
        self.stop_at, self.change, self.length, self.pooled = stop_at, change, length, pooled
        self.asked: list[str] = []

    def __call__(self, text: str):
        if text == self.stop_at:
            raise KeyboardInterrupt
        self.asked.append(text)
        generator = torch.Generator().manual_seed(sum(text.encode()) + len(text))
        hidden = torch.randn(1, self.length + len(text) % 3, 6, generator=generator)
        values = {"pooled_output": hidden.mean(1) * self.pooled}
        values["attention_mask"] = torch.ones(1, 3).long()
        return [(hidden * (1 + self.change), values)]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_recording_that_was_stopped_twice_is_whole_and_the_same_bytes(tmp_path):
    whole = record(Encoder(), PROMPTS, tmp_path / "whole")
    for stop_at in (PROMPTS[SHARD + 7], PROMPTS[-1]):
        with pytest.raises(KeyboardInterrupt):
            record(Encoder(stop_at), PROMPTS, tmp_path / "stopped")
    last, told = Encoder(), []
    record(last, PROMPTS, tmp_path / "stopped", on_prompt=told.append)
    assert [text for text in last.asked if text in PROMPTS] == PROMPTS[2 * SHARD :]
    assert sum(told) == len(PROMPTS)
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")
    assert whole.missing() == []


def test_what_was_recorded_is_what_the_encoder_gave(tmp_path):
    record(Encoder(), PROMPTS, tmp_path)
    found = open_recording(tmp_path)
    for text, prompt in zip(PROMPTS, found.prompts(), strict=True):
        ((hidden, values),) = Encoder()(text)
        ((ours, kept),) = prompt.entries
        assert prompt.text == text and torch.equal(ours, hidden.to(torch.bfloat16))
        assert torch.equal(kept["pooled_output"], values["pooled_output"].to(torch.bfloat16))
        assert torch.equal(kept["attention_mask"], values["attention_mask"])
    assert found.probes().prompts[0].text == ""


@pytest.mark.parametrize("encoder", [Encoder(change=0.05), Encoder(length=5), Encoder(pooled=1.05)])
def test_an_encoder_that_changed_is_noticed(tmp_path, encoder):
    with pytest.raises(KeyboardInterrupt):
        record(Encoder(PROMPTS[-1]), PROMPTS, tmp_path)
    before = files(tmp_path)
    with pytest.raises(LiDiTError, match="is not the one that .* was begun with"):
        record(encoder, PROMPTS, tmp_path)
    assert files(tmp_path) == before
    record(Encoder(change=1e-3), PROMPTS, tmp_path)  # as another device rounds


def test_other_prompts_do_not_go_into_the_same_folder(tmp_path):
    record(Encoder(), PROMPTS[:3], tmp_path)
    with pytest.raises(LiDiTError, match="a recording of 3 prompts, and these 4 are others"):
        record(Encoder(), PROMPTS[:4], tmp_path)
    with pytest.raises(LiDiTError, match="and these 3 are others"):
        record(Encoder(), PROMPTS[1:4], tmp_path)
    with pytest.raises(LiDiTError, match="there is no prompt to record"):
        record(Encoder(), [], tmp_path)


def test_what_is_no_recording_is_told(tmp_path):
    record(Encoder(), PROMPTS, tmp_path)
    (tmp_path / "00001.safetensors").unlink()
    with pytest.raises(LiDiTError, match="lacks 1 of its 3 files"):
        list(open_recording(tmp_path).prompts())
    good = json.loads((tmp_path / NAME).read_text())
    for bad in ("[]", "{", json.dumps({**good, "version": 9}), json.dumps({**good, "count": -1})):
        (tmp_path / NAME).write_text(bad)
        with pytest.raises(LiDiTError, match="holds no recording|is of version 9"):
            open_recording(tmp_path)
    with pytest.raises(LiDiTError, match="holds no recording"):
        open_recording(tmp_path / "none")
