"""Scores before and after a fine-tune, in pairs. Run: pytest tests/stickers/test_compare.py"""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from PIL import Image

from lidit_core.errors import LiDiTError
from lidit_stickers import compare as command
from lidit_stickers import score
from lidit_stickers.compare import PairedHits, compare, paired_interval
from lidit_stickers.evaluation import evaluation_prompts
from lidit_stickers.scorer.report import report
from lidit_stickers.scorer.selftest import drawn

SAMPLE = evaluation_prompts()[1::120]
BLANK = np.full((128, 128, 3), 252, np.uint8)


def test_interval() -> None:
    """Against the formula worked by hand; signs follow the sides."""
    assert paired_interval(20, 10, 100) == pytest.approx((-0.00898, 0.20506), abs=1e-5)
    low, high = paired_interval(10, 20, 100)
    assert (-high, -low) == pytest.approx(paired_interval(20, 10, 100))
    assert paired_interval(40, 30, 1080)[0] > -0.03 > paired_interval(40, 60, 1080)[0]


@pytest.mark.parametrize("gain, loss", [(0.1, 0.1), (0.3, 0.05), (0.02, 0.1)])
def test_interval_covers(gain: float, loss: float) -> None:
    """Summed over all outcomes of 40 prompts, it holds the true difference about 95 % of times."""
    n, covered = 40, 0.0
    for gained in range(n + 1):
        for lost in range(n + 1 - gained):
            low, high = paired_interval(gained, lost, n)
            if low <= gain - loss <= high:
                rest = n - gained - lost
                ways = comb(n, gained) * comb(n - gained, lost)
                covered += ways * gain**gained * loss**lost * (1 - gain - loss) ** rest
    assert 0.935 < covered < 0.99


@pytest.mark.font
def test_prompts_are_compared_one_by_one() -> None:
    """What is spoilt after is lost, what was spoilt before is gained, category by category."""
    pictures = drawn(SAMPLE)
    before, after = ([*pictures] for _ in range(2))
    before[0] = after[1] = after[-1] = 255 - BLANK
    changes = compare(report(before, SAMPLE), report(after, SAMPLE))
    everything = changes[-1]
    assert everything.category == "all" and everything.n == len(SAMPLE) == 9
    assert (everything.before, everything.after) == (8, 7)
    assert (everything.gained, everything.lost) == (1, 2)
    assert everything.difference == pytest.approx(-1 / 9)
    for name in PairedHits.__dataclass_fields__:
        if name != "category":
            assert sum(getattr(c, name) for c in changes[:-1]) == getattr(everything, name)


def test_other_prompts_are_refused() -> None:
    """Pairs need the same prompts on both sides."""
    one, two = (report([BLANK] * len(few), few) for few in (SAMPLE[:1], SAMPLE[:2]))
    with pytest.raises(LiDiTError, match="1 and 2 prompts"):
        compare(one, two)


@pytest.mark.font
def test_command(tmp_path, capsys, monkeypatch) -> None:
    """Two folders of pictures become a table with a row for each category and one for all."""
    monkeypatch.setitem(score.PROMPTS, "evaluation", lambda: SAMPLE[:4])
    for name, pictures in (("good", drawn(SAMPLE[:4])), ("bad", [255 - BLANK] * 4)):
        (tmp_path / name).mkdir()
        for i, picture in enumerate(pictures):
            Image.fromarray(picture).save(tmp_path / name / f"{i:05d}.png")
    command.main(["--before", str(tmp_path / "good"), "--after", str(tmp_path / "bad")])
    *_, last = capsys.readouterr().out.splitlines()
    assert last.startswith("| all | 4 | 1.000 | 0.000 | -1.000 | ") and last.endswith("| 0 | 4 |")
