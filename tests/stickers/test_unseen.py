"""The scorer on scenes that it was not fitted on. Run: pytest tests/stickers/test_unseen.py"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lidit_core.errors import LiDiTError
from lidit_core.paths import SHIPPED_WEIGHTS
from lidit_stickers.scenes.request import Item, SceneRequest
from lidit_stickers.scorer import unseen
from lidit_stickers.scorer.damage import blurred
from lidit_stickers.scorer.scorer import FoundObject, FoundScene
from lidit_stickers.scorer.unseen import (
    Outcome,
    confusions,
    outcome,
    table,
    trials,
    unseen_captions,
)

ROOT = Path(__file__).resolve().parents[2]


def found(kind: str | None, colour: str | None = None, x: float = 0.3) -> FoundObject:
    return FoundObject(kind, colour, (x - 0.1, 0.4, x + 0.1, 0.6), 1.0)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ((found("cat"), found("fox")), ["dog taken for fox"]),
        ((found("cat"),), ["dog not seen"]),
        ((found("cat"), found("dog"), found(None)), ["something seen besides"]),
        ((found("cat", x=0.8), found("dog", x=0.2)), ["relation"]),
    ],
)
def test_confusions_are_named(seen, expected):
    request = SceneRequest((Item("cat"), Item("dog")), "left of")
    assert confusions(FoundScene("blue", seen), request) == expected


def test_the_table_says_what_does_not_hold():
    good = Outcome("drawn", 2, 1000, 1.0, Counter(), 0.01)
    bad = Outcome("noise", 30, 1000, 0.9, Counter({"cat taken for dog": 30}), 0.03)
    told = table([good, bad])
    assert good.holds and not bad.holds
    assert "| drawn | 2 of 1000 | 0.20% | 0.05% to 0.73% | under 1%: holds | 1.000 |" in told
    assert "**does not hold**" in told and "noise: cat taken for dog (30)" in told


@pytest.mark.font
def test_scenes_are_new_and_of_all_kinds_and_edges_tell_blur():
    """Softness that changes no verdict shows in the edges."""
    asked = unseen_captions(12)
    assert len({c.category for c in unseen_captions(200)}) >= 9
    pictures = unseen.drawn(asked, 128, unseen.SEED)
    plain = outcome("drawn", 0.01, np.asarray, pictures, asked)
    soft = outcome("blur", 0.03, blurred(1.5), pictures, asked)
    assert (plain.wrong, plain.edges) == (0, 1.0) and soft.wrong == 0 and soft.edges < 0.5
    nothing = outcome("nothing", 0.03, lambda p: np.full_like(p, p[0, 0]), pictures, asked)
    assert nothing.wrong == 12 and any("not seen" in what for what in nothing.confused)


@pytest.mark.font
def test_drawn_noised_blurred_and_decoded_scenes_are_read_right():
    """The limits of 1 and 3 per cent, as far as forty scenes tell: none wrong, or one."""
    asked = unseen_captions(40)
    pictures = unseen.drawn(asked, 128, unseen.SEED)
    vae = SHIPPED_WEIGHTS / "stickers-vae.safetensors"
    found = {
        name: outcome(name, limit, alter, pictures, asked) for name, limit, alter in trials(vae)
    }
    wrong = {name: each.wrong for name, each in found.items()}
    assert len(wrong) == 4 and wrong.pop("drawn") == 0 and max(wrong.values()) <= 1, wrong


@pytest.mark.font
def test_a_limit_that_does_not_hold_is_an_exit_status(monkeypatch, capsys):
    spoiled = [("drawn", 0.01, lambda picture: np.full_like(picture, 90))]
    monkeypatch.setattr(unseen, "trials", lambda vae: iter(spoiled))
    assert unseen.main(["--count", "2"]) == 1 and "**does not hold**" in capsys.readouterr().out


@pytest.mark.font
def test_the_documented_command_runs():
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    (words,) = set(re.findall(r"python -m (lidit_stickers\.scorer\.unseen --count \d+)", text))
    command = [sys.executable, "-m", *re.sub(r"\d+$", "4", words).split()]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    rows = [line for line in ended.stdout.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[1].split()[2] for row in rows[1:]] == ["4"] * 4


def test_a_count_of_nothing_is_refused():
    with pytest.raises(LiDiTError, match="--count is 0"):
        unseen.main(["--count", "0"])
