"""`lidit train` as people type it. Run: pytest tests/test_train_command.py"""

from __future__ import annotations

from pathlib import Path

import pytest

from lidit_core.checkpoint import load_lidit
from lidit_core.cli import main

ROOT = Path(__file__).resolve().parent.parent
SMOKE = str(ROOT / "recipes" / "smoke.yaml")
SHORT = ["--device", "cpu", "--set", "stages.0.images=64", "--set", "validation.every=4"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["no-recipe.yaml", "--out", "x"], "recipe no-recipe.yaml cannot be read"),
        ([SMOKE], "--out is missing"),
        ([SMOKE, "--out", "x", "--set", "seed"], "expected key.sub=value"),
        ([SMOKE, "--out", "x", "--llm", "smollm2"], "expected NAME=SOURCE"),
        ([SMOKE, "--out", "x", "--set", "data.sources.0.path=nowhere"], "nowhere is not there"),
        (
            [SMOKE, "--out", "x", "--set", "compute.shard=true", "--device", "cpu"],
            "and this is one",
        ),
    ],
)
def test_a_mistake_is_one_sentence(words, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *words]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lidit: ")]
    assert told in said[-1]


def test_the_smoke_recipe_needs_no_llm_and_makes_a_file_that_loads(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LIDIT_CACHE", str(tmp_path / "no-llm-here"))
    monkeypatch.chdir(tmp_path)
    assert main(["train", SMOKE, "--out", "run", *SHORT]) == 0
    assert capsys.readouterr().out.strip() == str(Path("run", "final.safetensors"))
    assert sorted(p.name for p in Path("run/grids").iterdir()) == ["0000004.png"]
    assert not (tmp_path / "no-llm-here").exists()
    model = load_lidit("run/final.safetensors")
    assert model.config.native_size == 64 and len(model.config.latent.rgb_factors) == 16


def test_a_plan_loads_nothing_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["train", "--print-plan", str(ROOT / "recipes" / "LI-DiT-1B.yaml"), "--out", "run"]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "1.106 billion" in told and "500,000 steps" in told and "32 x H100" in told
    assert not list(tmp_path.iterdir())
