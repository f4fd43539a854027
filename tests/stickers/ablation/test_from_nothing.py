"""An ablation of which all starts from nothing, and the file that ships for a GPU.

Run: pytest tests/stickers/ablation/test_from_nothing.py
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny_ablation import NAMES, ablate, make_ablation_world, tiny, written
from tiny_lidit import lidit_config, save_lidit_files

from lidit_core.checkpoints.lidit import load_lidit
from lidit_core.cli import main
from lidit_core.errors import LiDiTError
from lidit_core.io.hashes import sha256
from lidit_core.model.presets import find_preset
from lidit_core.paths import SHIPPED_WEIGHTS
from lidit_core.shipped import find_vae
from lidit_stickers.ablation.recipes import fork_recipe
from lidit_stickers.ablation.variants import read_ablation
from lidit_train.tasks.task import open_task

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = ROOT / "recipes" / "ablate-full.yaml"
SIZE = {"depth": 2, "width": 32, "heads": 2}
MODEL = {"preset": "stickers", "changes": {**SIZE, "steps": 2}, "measure_latents": True}
CHOSEN = ("base-none", "full", "collaborative")
PAPER = {  # T2I-CompBench, by the variant that stands for the row
    "base-none": 38.72,  # Tables 2 to 5: the base LLaMA3-8B
    "base-instructed-none": 38.47,
    "tuned-none": 44.22,
    "none": 48.41,
    "base-full": 54.02,
    "full": 56.79,
    "gemma": 56.13,
    "concatenated": 58.32,
    "collaborative": 60.31,
    "base-causal": 45.84,
    "base-one": 48.25,
    "base-three": 55.13,
    "base-ungated": 53.47,
    "minilm-none": 48.82,  # T5
    "minilm": 49.52,
    "gemma-plain-none": 38.11,  # Qwen1.5
    "gemma-plain-full": 53.81,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return make_ablation_world(tmp_path_factory.mktemp("world"))


def smallest(world: Path, **changes) -> dict:
    """The shipped file with tiny sizes and three of its variants, which two tiny LLMs read."""
    data = yaml.safe_load(SHIPPED.read_text())
    small = tiny(world)
    for reading in data["readings"].values():
        name = NAMES["gemma" in reading["name"]]
        reading |= {"name": name, "width": 32, "block": -3, "token_budget": 24}
    data["model"] = MODEL
    data["fork"] |= {key: small["fork"][key] for key in ("checkpoints", "log", "optimiser")}
    data["fork"]["data"] |= small["fork"]["data"] | {"workers": 0}
    (stage,) = data["fork"]["stages"]
    stage |= {"images": 9, "batch": 3, "resolution": 64}
    del data["fork"]["content"], data["fork"]["compute"]
    data["variants"] = [each for each in data["variants"] if each["name"] in CHOSEN]
    known = {each["name"] for each in data["variants"]}
    data["claims"] = [c for c in data["claims"] if {c["this"], c["other"]} <= known]
    return {**data, "gap": small["gap"], "score": small["score"], "seeds": [0], **changes}


@pytest.mark.font
def test_the_shipped_file_runs_in_its_smallest_form_for_real(world, tmp_path, capsys):
    """Nothing but the stickers' autoencoder is taken over, and no checkpoint is asked for."""
    file, out = written(tmp_path, smallest(world)), tmp_path / "out"
    assert main(["ablate", "--print-plan", file]) == 0
    assert "3 runs of 9 images from nothing (3 variants, 1 seeds)" in capsys.readouterr().out
    assert ablate(world, file, "--out", str(out)) == 0
    told = json.loads((out / "ablation.json").read_text())
    assert {*told["runs"]} == {*CHOSEN} and told["trunk_sha256"] == ""
    assert all(np.isfinite(run["gaps"]).all() for run in told["runs"].values())
    assert {*told["llms"]} == {*NAMES} and len(told["claims"]) == 2
    shipped = find_vae(find_preset("stickers").latent, SHIPPED_WEIGHTS / "new")
    assert told["autoencoder_sha256"] == sha256(shipped)
    table = (out / "ablation.md").read_text()
    assert f"From nothing, autoencoder {sha256(shipped)[:12]}; each variant and seed" in table
    models = {name: load_lidit(out / "runs" / f"{name}-0" / "final.safetensors") for name in CHOSEN}
    configs = {name: model.config for name, model in models.items()}
    assert all((c.depth, c.width, c.heads) == (2, 32, 2) for c in configs.values())
    assert [configs[name].refiner.blocks for name in CHOSEN] == [0, 2, 2]
    assert [len(configs[name].llms) for name in CHOSEN] == [1, 1, 2]
    assert len({c.latent.std for c in configs.values()}) == 1  # measured, on the same pictures
    asked = json.loads((out / "runs" / "full-0" / "asked.json").read_text())
    assert (
        asked["recipe"]["model"]["preset"] == "stickers" and "vae" not in asked["recipe"]["model"]
    )
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.npy")}
    assert ablate(world, file, "--out", str(out)) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    small = smallest(world, model={**MODEL, "changes": {**SIZE, "depth": 3}})
    assert ablate(world, written(tmp_path, small), "--out", str(out)) == 2
    assert "holds a run with another recipe than is asked for now" in capsys.readouterr().err


@pytest.mark.font
def test_an_autoencoder_of_ones_own_draws_and_encodes(world, tmp_path):
    """It is put beside each model under the name that it is found by."""
    own = tmp_path / "mine.safetensors"
    folder = tmp_path / "made"
    folder.mkdir()
    save_lidit_files(folder, lidit_config("one"))
    shutil.copy(find_vae(lidit_config("one").latent, folder / "model.safetensors"), own)
    data = smallest(world, model={**MODEL, "vae": str(own)}, claims=[], reference="full")
    data["variants"] = [each for each in data["variants"] if each["name"] == "full"]
    file, out = written(tmp_path, data), tmp_path / "out"
    assert ablate(world, file, "--out", str(out)) == 0
    told = json.loads((out / "ablation.json").read_text())
    beside = out / "runs" / "full-0" / "stickers-vae.safetensors"
    assert told["autoencoder_sha256"] == sha256(own) == sha256(beside)


def test_the_shipped_file_is_the_papers_and_every_part_is_used():
    ablation = read_ablation(SHIPPED)
    assert ablation.fork["hardware"]["device"] == "H200" and ablation.model["preset"] == "stickers"
    assert {n for claim in ablation.claims for n in (claim.this, claim.other)} == {*ablation.names}
    assert {name for each in ablation.variants for name in each.reads} == {*ablation.readings}
    assert {claim.table for claim in ablation.claims} == {"2", "3", "4", "5", "6", ""}
    for claim in ablation.claims:
        expected = (PAPER[claim.this], PAPER[claim.other]) if claim.table else ()
        assert claim.paper == expected, claim.says
    for variant in ablation.variants:
        open_task(fork_recipe(ablation, variant, 0, "", Path("."))).check_files()


def test_table_2_is_there_as_the_paper_paired_it_and_clean():
    """As paired the instruction changes the LLM too; a clean pair differs in one thing alone."""
    ablation = read_ablation(SHIPPED)
    by_name = {each.name: each for each in ablation.variants}
    told = [claim for claim in ablation.claims if "instruction" in claim.says]
    paired = [claim for claim in told if "tuning" in claim.says]
    clean = [claim for claim in told if "the instruction alone" in claim.says]
    assert len(paired) == 2 and len(clean) == 3

    def llms(name: str) -> list[str]:
        return ablation.llms(by_name[name])

    assert all(llms(claim.this) != llms(claim.other) for claim in paired)
    for claim in clean:
        this, other = by_name[claim.this], by_name[claim.other]
        assert llms(claim.this) == llms(claim.other) and this.refiner == other.refiner
        specs = [ablation.specs(each)[0].template for each in (this, other)]
        assert specs[0].instruction and not specs[1].instruction


def test_the_plan_tells_hours_at_the_stickers_size_and_at_others(capsys):
    """The commands of the file's head."""
    plan = ["ablate", "--print-plan", "recipes/ablate-full.yaml"]
    assert main(plan) == 0
    told = capsys.readouterr().out
    assert "54 runs of 1,843,200 images from nothing (18 variants, 3 seeds)" in told
    assert "are left; on H200" in told
    hours = float(re.search(r"([\d.]+) hours\n", told)[1])
    larger = next(c for c in SHIPPED.read_text().splitlines() if "model.changes.depth=28" in c)
    assert main([*plan, *larger.split("ablate-full.yaml ")[1].split()]) == 0
    assert float(re.search(r"([\d.]+) hours\n", capsys.readouterr().out)[1]) > 20 * hours


BAD = [
    (
        {"checkpoint": "stickers"},
        "begins with checkpoint and model; expected a checkpoint, a trunk",
    ),
    ({"fork": {"hardware": {"count": 8}}}, "hardware.count=8; expected 1, as each process"),
    ({"model": {}}, "begins with nothing that it names"),
    ({"model": {"preset": "stickers", "pixart": "x"}}, "model has pixart; expected preset"),
    ({"model": {"preset": "stickers", "changes": {"refiner": {}}}}, "has changes.refiner"),
    ({"model": {"changes": {"depth": 2}}}, "the ablation's model has no preset"),
]


@pytest.mark.parametrize(("changes", "told"), BAD)
def test_a_mistake_is_one_sentence(world, tmp_path, changes, told):
    with pytest.raises(LiDiTError, match=re.escape(told)) as caught:
        read_ablation(written(tmp_path, smallest(world, **changes)))
    assert "\n" not in str(caught.value)


def test_an_autoencoder_that_draws_nothing_here_is_told_before_any_run(world, tmp_path, capsys):
    (tmp_path / "kl").mkdir()
    (tmp_path / "kl" / "config.json").write_text("{}")
    data = smallest(world, model={**MODEL, "vae": str(tmp_path / "kl")})
    assert ablate(world, written(tmp_path, data), "--out", str(tmp_path / "out")) == 2
    assert "kl; expected a file in TAESD's layout" in capsys.readouterr().err
    assert not (tmp_path / "out" / "runs").exists()
