"""Adapters compared. Run: pytest tests/stickers/ablation/test_adapters_compared.py"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny_adapter_training import make_world
from tiny_llm import save_encoder

from lidit_core.cli import main
from lidit_core.errors import LiDiTError
from lidit_core.llm.locate import available
from lidit_core.llmdiff.config import FORMS
from lidit_core.llmdiff.file import read_adapter_config
from lidit_stickers.ablation.recipes import fork_recipe
from lidit_stickers.ablation.variants import read_ablation

pytest.importorskip("diffusers")

SHIPPED = Path(__file__).resolve().parents[3] / "recipes" / "ablate-adapter.yaml"
LLMS = ("SmolLM2-135M-Instruct", "gemma-3-270m", "all-MiniLM-L6-v2")
VARIANTS = [
    {"name": "last", "says": "the last state", "adapter": {"llm": "llm", "form": "last"}},
    {"name": "direct", "says": "all blocks", "adapter": {"llm": "llm"}},
    {"name": "encoder", "says": "an encoder", "adapter": {"llm": "Bert", "form": "consecutive"}},
]
CLAIMS = [{"says": "differences help", "this": "direct", "other": "last"}]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = make_world(tmp_path_factory.mktemp("world"))
    save_encoder(folder / "Bert", "Bert")
    return folder


def tiny(world: Path, **changes) -> dict:
    """Three adapters, two seeds, three steps each."""
    return {
        "adapter": {"base": str(world / "base.safetensors"), "token_budget": 24},
        "fork": {
            "data": {"sources": [{"kind": "stickers", "path": "en", "count": 8, "distinct": 4}]},
            "stages": [{"images": 9, "batch": 3}],
            "optimiser": {"learning_rate": 1e-1, "warmup": 1, "ema": 0.5},
            "cache": {"states": True},
            "checkpoints": {"every": 1},
            "log": {"every": 1, "trackers": []},
        },
        "reference": "direct",
        "variants": copy.deepcopy(VARIANTS),
        "claims": CLAIMS,
        "gap": {"scenes": 3, "times": [0.7, 0.95]},
        "score": {"every": 700},
        "also": [{"prompts": "long", "every": 60}],
        **changes,
    }


def written(folder: Path, data: dict) -> str:
    path = folder / "forms.yaml"
    path.write_text(yaml.safe_dump(data))
    return str(path)


def ablate(world: Path, file: str, *words: str) -> int:
    llms = [word for name in ("llm", "Bert") for word in ("--llm", f"{name}={world / name}")]
    return main(["ablate", file, *llms, "--device", "cpu", *words])


@pytest.mark.long
@pytest.mark.font
def test_one_command_trains_measures_and_compares_the_forms(world, tmp_path):
    file, out = written(tmp_path, tiny(world)), tmp_path / "out"
    assert ablate(world, file, "--out", str(out)) == 0
    for name, form, block in (
        ("last", "last", -1),
        ("direct", "direct", "differences"),
        ("encoder", "consecutive", "differences"),
    ):
        config = read_adapter_config(out / "runs" / f"{name}-0" / "final.safetensors")
        assert (config.form, config.llm.block) == (form, block)
        assert config.llm.name == ("Bert" if name == "encoder" else "llm")
    told = json.loads((out / "ablation.json").read_text())
    gaps = {name: np.array(run["gaps"]) for name, run in told["runs"].items()}
    assert all(gap.shape == (2, 2) and np.isfinite(gap).all() for gap in gaps.values())
    assert np.abs(gaps["last"] - gaps["direct"]).max() > 0 < np.abs(gaps["encoder"]).max()
    by_hand = 100 * (gaps["direct"] - gaps["last"]).mean() / abs(gaps["direct"].mean())
    assert told["claims"][0]["gap"] == pytest.approx(by_hand, rel=1e-6)
    assert all(len(run["nearest"]) == 2 for run in told["runs"].values())
    long = told["also"]["long"]["runs"]
    assert all(len(run["nearest"]) == 2 for run in long.values())
    assert np.abs(np.array(long["direct"]["gaps"]) - gaps["direct"]).max() > 0
    table = (out / "ablation.md").read_text()
    assert table.count("| differences help |") == 2 and "## Prompts: long" in table
    assert np.load(out / "runs" / "last-0" / "long-nearest.npy").shape == (2,)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.npy")}
    assert ablate(world, file, "--out", str(out)) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_the_shipped_file_is_every_llm_in_every_form():
    """Each variant is a recipe that the trainer reads, and every one is compared."""
    ablation = read_ablation(SHIPPED)
    recipes = [fork_recipe(ablation, v, 0, "", Path(".")) for v in ablation.variants]
    found = [(r.adapter.llm, r.adapter.form) for r in recipes if r.adapter and r.adapter.noise]
    assert sorted(found) == sorted((llm, form) for llm in LLMS for form in FORMS)
    assert [r.adapter.form for r in recipes if r.adapter and not r.adapter.noise] == ["direct"]
    budgets = [(r.data, r.stages, r.optimiser, r.seed) for r in recipes]
    assert all(budget == budgets[0] for budget in budgets)
    assert {n for claim in ablation.claims for n in (claim.this, claim.other)} == {*ablation.names}


def test_the_plan_tells_hours(world, tmp_path, capsys):
    """Its smallest form, and where the LLMs are at hand the command of the documents."""
    data = tiny(world)
    for variant in data["variants"]:
        llm = str(world / variant["adapter"]["llm"])
        variant["adapter"] = {**variant["adapter"], "llm": llm}
    file = written(tmp_path, data)
    assert main(["ablate", "--print-plan", file]) == 0
    assert (
        "6 runs of 9 images (3 variants, 2 seeds), of which 6 are left" in capsys.readouterr().out
    )
    gpu = ["--set", "fork.hardware.device=H100"]
    assert ablate(world, written(tmp_path, tiny(world)), "--print-plan", *gpu) == 0
    assert "are left; on this CPU" in capsys.readouterr().out  # which --device names
    if all(map(available, LLMS)):
        assert main(["ablate", "--print-plan", "recipes/ablate-adapter.yaml"]) == 0
        assert float(re.search(r"([\d.]+) hours\n", capsys.readouterr().out)[1]) > 1


@pytest.mark.long
@pytest.mark.font
def test_runs_of_two_modes_are_never_mixed(world, tmp_path, capsys):
    few = ["--set", "seeds=[0]", "--set", "score.every=0", "--set", "also=[]"]
    few += ["--set", "adapter.modes=[replace, add]", "--out", str(tmp_path / "out")]
    file = written(tmp_path, tiny(world))
    assert ablate(world, file, *few, "--set", "mode=add") == 0
    assert "pictures, and is measured in mode add." in capsys.readouterr().out
    assert ablate(world, file, *few) == 2
    assert "holds a run with another mode than is asked for now" in capsys.readouterr().err


BAD = [
    ({"mode": "both"}, "the ablation's mode is 'both'"),
    ({"checkpoint": "stickers"}, "begins with checkpoint and adapter; expected a checkpoint"),
    ({"variants": [{"name": "direct", "says": "", "reads": ["x"]}]}, "expected a change of the"),
    ({"fork": {"adapter": {}}}, "fork has adapter"),
    ({"also": [{"prompts": "long"}] * 2}, "has a list of prompts twice"),
]


@pytest.mark.parametrize(("changes", "told"), BAD)
def test_a_mistake_is_one_sentence(world, tmp_path, changes, told):
    data = tiny(world, **{"claims": [], **changes})
    with pytest.raises(LiDiTError, match=re.escape(told)) as caught:
        read_ablation(written(tmp_path, data))
    assert "\n" not in str(caught.value)
