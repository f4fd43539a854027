"""What a report says beside the scores by category. Run: pytest tests/eval/test_report.py"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_detector import save_detector

from lidit_core.cli import main
from lidit_eval.benchmarks.item import PromptItem
from lidit_eval.items import DrawingTask
from lidit_eval.judges.judge import Verdict
from lidit_eval.report import MEAN, Judged, mean_of_categories
from lidit_eval.statistics import bootstrap


def verdicts(category: str, *correct: float, first: int = 0) -> list[Judged]:
    return [
        Judged(
            DrawingTask(first + n, 0, PromptItem("x", category), 0),
            Path("x"),
            Verdict({"c": score}),
        )
        for n, score in enumerate(correct)
    ]


def test_each_category_counts_alike():
    """As in GenEval's summary_scores.py: the mean of the tasks' means, not of the pictures."""
    many = verdicts("single object", *[1.0] * 30)
    few = verdicts("colors", 0.0, 1.0, 0.0, 0.0, first=30)
    (mean,) = mean_of_categories([*many, *few], ["c"])
    assert (mean.category, mean.prompts, mean.pictures) == (MEAN, 34, 34)
    assert mean.score == pytest.approx((1 + 0.25) / 2)
    low, high = bootstrap([0.0, 1.0, 0.0, 0.0])  # the other category is always 1
    assert (mean.low, mean.high) == pytest.approx(((1 + low) / 2, (1 + high) / 2))
    assert mean_of_categories(many, ["c"]) == []


def test_genevals_prompts_have_the_mean_of_categories_last(tmp_path, capsys):
    """Other lists do not, as their own protocols do not."""
    source = save_detector(tmp_path / "detector", {0: "mouse", 1: "remote", 2: "keyboard"})
    wishes = [("computer mouse", 1), ("tv remote", 1), ("computer keyboard", 1), ("tv remote", 99)]
    lines = [
        {"tag": tag, "include": [{"class": name, "count": n}], "prompt": f"a photo of {n} {name}"}
        for tag, (name, n) in zip(["single_object"] * 3 + ["counting"], wishes, strict=True)
    ]
    prompts = tmp_path / "evaluation_metadata.jsonl"
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    save(tmp_path / "made", 4)
    words = ["eval", "--prompts", f"geneval:{prompts}", "--pictures", str(tmp_path / "made")]
    words += ["--judge", f"detector:{source}", "--device", "cpu", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    scores = json.loads((tmp_path / "out" / "report.json").read_text())["scores"]
    by = {score["category"]: score["score"] for score in scores}
    assert list(by) == ["single object", "counting", "all", MEAN] and by["counting"] == 0
    assert by[MEAN] == pytest.approx(by["single object"] / 2)
    assert by["all"] == pytest.approx(by["single object"] * 3 / 4)
    assert f"\n| {MEAN} | 4 | {by[MEAN]:.3f} |" in (tmp_path / "out" / "report.md").read_text()


def save(folder: Path, count: int) -> None:
    folder.mkdir()
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{number:05d}.png")
