"""A bridge repairs the demo checkpoint. Run: pytest tests/stickers/bridging"""

from __future__ import annotations

from pathlib import Path

import pytest

from lidit_core.errors import LiDiTError
from lidit_core.llm.locate import available
from lidit_stickers.bridging.checkpoint import STUDENT, Repair, main
from lidit_stickers.bridging.report import MARKDOWN

RECIPES = Path(__file__).resolve().parents[3] / "recipes"


@pytest.mark.long
@pytest.mark.font
@pytest.mark.llm
def test_three_stages_are_trained_drawn_and_told(tmp_path, monkeypatch):
    if not available(STUDENT):
        pytest.skip(f"{STUDENT} is not on this machine; get it with `lidit fetch smollm2`")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(RECIPES)
    small = {
        "changes": ("bridge.width=32", "bridge.heads=2", "bridge.token_budget=96"),
        "source": "{kind: stickers, path: en, count: 64, distinct: 64}",
        "every": 1080,
    }
    made = Repair(tmp_path / "out", 100, (64, 64, 128), **small)
    text = made.run()
    assert text == (tmp_path / "out" / MARKDOWN).read_text()
    assert "text gap kept" in text and "cosine" in text
    rows = [line[2:].split(" | ")[0] for line in text.splitlines() if line.startswith("| ")]
    assert rows[1:4] == ["the checkpoint", "adapter, mode add", "adapter, mode replace"]
    assert [row.partition(",")[0] for row in rows[4:]] == [
        "from the recording",
        "through its U-Net",
        "from pictures",
    ]
    assert made.run() == text  # nothing is done again


def test_a_mistake_is_one_sentence(tmp_path):
    with pytest.raises(LiDiTError, match="--images has 3; expected 128 or more"):
        main(["--out", str(tmp_path), "--images", "3", "64", "64"])
