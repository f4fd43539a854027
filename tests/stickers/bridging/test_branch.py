"""Bridges in a LI-DiT's branch are compared. Run: pytest tests/stickers/bridging/test_branch.py"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_lidit import lidit_config, save_lidit_files
from tiny_llm import save_llm

from lidit_core.bridge.file import load_bridge
from lidit_core.errors import LiDiTError
from lidit_core.text.spec import LLMSpec
from lidit_core.text.templates import find_template
from lidit_stickers.bridging.branch import Comparison, main
from lidit_stickers.bridging.report import MARKDOWN
from lidit_stickers.bridging.variants import RIDGE_ALONE, VARIANTS, WHOLE

RECIPES = Path(__file__).resolve().parents[3] / "recipes"
TINY = (
    "bridge.width=32",
    "bridge.heads=2",
    "bridge.token_budget=24",
    "bridge.blocks=1",
    "bridge.refiner_blocks=1",
    "stages.0.batch=4",
    "optimiser.warmup=1",
    "compute.precision=float32",
    "log.trackers=[]",
)


@pytest.fixture
def comparison(tmp_path, monkeypatch) -> Comparison:
    """A LI-DiT that reads a tiny LLM, and another one to write its states."""
    monkeypatch.chdir(tmp_path)  # where the LLMs are found under their names
    for name in ("teacher", "student"):
        save_llm(tmp_path / name)
    read = LLMSpec("teacher", 32, template=find_template("short"), token_budget=24)
    config = replace(lidit_config("teacher", native_size=64, steps=1), llms=(read,))
    model = str(save_lidit_files(tmp_path, config))
    named = {"model": model, "teacher": "teacher", "student": "student"}
    sizes = {"captions": 100, "images": 8, "every": 540, "lists": ("evaluation",)}
    (tmp_path / "recipes").symlink_to(RECIPES)
    return Comparison(tmp_path / "out", **sizes, **named, changes=TINY)


@pytest.mark.font
def test_every_bridge_is_made_drawn_and_told(comparison):
    text = comparison.run()
    files = [comparison.file(variant) for variant in VARIANTS]
    assert all(file.is_file() for file in files)
    assert text == (comparison.out / MARKDOWN).read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert [row[2:].partition(":")[0] for row in rows[1:]] == [each.name for each in VARIANTS]
    of = WHOLE, RIDGE_ALONE
    whole, ridge = (load_bridge(comparison.file(variant)).bridge for variant in of)
    assert ridge.config.residual == "none" and not hasattr(ridge, "resampler")
    assert torch.equal(whole.base.mean, ridge.base.mean)
    pictures = {
        (comparison.out / "scores" / "evaluation" / name / "pictures" / "00000.png").read_bytes()
        for name in ("native", "bridge", "mlp", "random")
    }
    assert len(pictures) == 4
    made = [file.stat().st_mtime_ns for file in files]
    assert comparison.run() == text  # nothing is done again
    assert [file.stat().st_mtime_ns for file in files] == made


def test_a_mistake_is_one_sentence(comparison, tmp_path):
    with pytest.raises(LiDiTError, match="run this in the repository"):
        (tmp_path / "recipes").unlink()
        comparison.run()
    with pytest.raises(LiDiTError, match="--captions is 3; expected 100 or more"):
        main(["--out", str(tmp_path), "--captions", "3"])
