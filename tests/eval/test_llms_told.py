"""An evaluation knows its LLMs and its autoencoder by what they hold.

Run: pytest tests/eval/test_llms_told.py
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_adapter_training import make_world, run_adapter, write_demo_checkpoint
from tiny_bridge import bridge_recipe, make_bridge_world, make_demo_recording
from tiny_lidit import lidit_config, save_lidit_files
from tiny_llm import save_llm

from lidit_core.cli import main
from lidit_core.llm import hashes
from lidit_core.llm.hashes import read_hashes, shown_hashes
from lidit_eval.drawing import FOLDER
from lidit_eval.record import AUTOENCODER, LLMS, NAME, UNKNOWN
from lidit_train.run import train

OTHER = "the LLM {} here has other weights than the one that this was trained on"


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def evaluate(*words: object) -> int:
    fixed = ["--steps", "1", "--every", "500", "--device", "cpu"]
    return main(["eval", *map(str, words), *fixed])


@pytest.fixture
def model(tmp_path) -> Path:
    """A LI-DiT beside the LLM that it reads."""
    save_llm(tmp_path / "tiny-llm")
    save_lidit_files(tmp_path, lidit_config("tiny-llm", native_size=64, steps=2))
    return tmp_path / "model.safetensors"


def replaced(folder: Path, **changes) -> None:
    shutil.rmtree(folder)
    save_llm(folder, seed=7, **changes)


@pytest.mark.font
def test_an_evaluation_goes_on_with_its_own_llm_alone(model, tmp_path, capsys):
    llm, out = tmp_path / "tiny-llm", tmp_path / "out"
    words = (model, "--llm", llm, "--out", out)
    assert evaluate(*words) == 0
    told = shown_hashes(read_hashes(llm, "cpu"))
    assert read(out / "report.json")["record"][LLMS] == {"tiny-llm": told}
    assert f"| {LLMS} | {json.dumps({'tiny-llm': told})} |" in (out / "report.md").read_text()
    report = (out / "report.md").read_bytes()
    (out / FOLDER / "00500.png").unlink()
    replaced(llm)
    assert evaluate(*words) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert (
        f"drawn by the LLM tiny-llm {told}, and {shown_hashes(read_hashes(llm, 'cpu'))} is" in error
    )
    assert not (out / FOLDER / "00500.png").exists()
    shutil.rmtree(llm)
    save_llm(llm)
    assert evaluate(*words) == 0 and (out / "report.md").read_bytes() == report


@pytest.mark.font
def test_one_dtype_of_the_llm_is_not_mixed_with_another(model, tmp_path, capsys, monkeypatch):
    """That of a CPU with AMX is bfloat16; a record of before says nothing of it."""
    llm, out = tmp_path / "tiny-llm", tmp_path / "out"
    words = (model, "--llm", llm, "--out", out)
    monkeypatch.setattr(hashes, "default_dtype", lambda device: torch.float32)
    assert evaluate(*words) == 0
    assert read(out / NAME)[LLMS]["tiny-llm"].endswith("read in float32")
    monkeypatch.setattr(hashes, "default_dtype", lambda device: torch.bfloat16)
    assert evaluate(*words) == 2
    assert "read in bfloat16 is found now" in capsys.readouterr().err.splitlines()[-1]
    kept = read(out / NAME)
    kept[LLMS] = {"tiny-llm": kept[LLMS]["tiny-llm"].partition(", read in")[0]}
    (out / NAME).write_text(json.dumps(kept))
    assert evaluate(*words) == 0


@pytest.mark.font
def test_a_record_of_before_is_accepted_and_says_that_it_does_not_know(model, tmp_path):
    llm, out = tmp_path / "tiny-llm", tmp_path / "out"
    words = (model, "--llm", llm, "--out", out)
    assert evaluate(*words) == 0
    kept = read(out / NAME)
    del kept[LLMS]
    (out / NAME).write_text(json.dumps(kept))
    replaced(llm)
    assert evaluate(*words) == 0
    assert read(out / "report.json")["record"][LLMS] == UNKNOWN and read(out / NAME) == kept


@pytest.mark.font
def test_what_began_without_its_llm_records_it_before_the_first_picture(model, tmp_path):
    llm, out = tmp_path / "tiny-llm", tmp_path / "out"
    llm.rename(tmp_path / "away")
    words = (model, "--llm", f"tiny-llm={llm}", "--out", out)
    assert evaluate(*words) == 2
    (tmp_path / "away").rename(llm)
    assert evaluate(*words) == 0
    assert read(out / "report.json")["record"][LLMS] == {
        "tiny-llm": shown_hashes(read_hashes(llm, "cpu"))
    }


@pytest.mark.font
def test_an_adapters_other_llm_and_cut_prompts_are_told(tmp_path, caplog, capsys):
    """As of a LI-DiT; and an evaluation by one LLM does not go on with another."""
    pytest.importorskip("diffusers")
    world = make_world(tmp_path)
    run_adapter(world, "run", adapter={"token_budget": 3})
    adapter, base = tmp_path / "run" / "final.safetensors", tmp_path / "base.safetensors"
    words = (base, "--adapter", adapter, "--llm", tmp_path / "llm")
    with caplog.at_level(logging.WARNING):
        assert evaluate(*words, "--out", tmp_path / "own") == 0
    assert "only the first 3 of" in caplog.text and "other weights" not in caplog.text
    assert {*read(tmp_path / "own" / NAME)[LLMS]} == {"llm"}
    caplog.clear()
    replaced(tmp_path / "llm", num_hidden_layers=2, hidden_size=16)
    with caplog.at_level(logging.WARNING):
        assert evaluate(*words, "--out", tmp_path / "other") == 0
    assert caplog.text.count(OTHER.format("llm")) == 1
    assert evaluate(*words, "--out", tmp_path / "own") == 2
    caplog.clear()
    save_llm(tmp_path / "named", seed=7, num_hidden_layers=2, hidden_size=16)
    with caplog.at_level(logging.WARNING):
        assert evaluate(*words[:-1], tmp_path / "named", "--out", tmp_path / "third") == 0
    assert "the LLM named stands in for llm, which the adapter was trained on" in caplog.text
    for named in (["--llm", tmp_path / "named"], ["--llm", f"named={tmp_path / 'named'}"]):
        more = [*words[:3], *named, *words[3:] * (named[1] == tmp_path / "named")]
        assert evaluate(*more, "--out", tmp_path / "fourth") == 2
        assert "names another LLM than llm" in capsys.readouterr().err


@pytest.mark.font
def test_a_bridges_other_llm_is_told(tmp_path, caplog):
    """Once it has read, as before nothing of it is loaded that could be compared."""
    pytest.importorskip("diffusers")
    make_bridge_world(tmp_path, False, "student")
    base = write_demo_checkpoint(tmp_path / "base.safetensors")
    make_demo_recording(tmp_path / "bag", base)
    data = {"sources": [{"kind": "recording", "path": str(tmp_path / "bag")}]}
    bridge = train(bridge_recipe(tmp_path, data=data), tmp_path / "run", "cpu")
    words = (base, "--bridge", bridge, "--llm", tmp_path / "student", "--out")
    with caplog.at_level(logging.WARNING):
        assert evaluate(*words, tmp_path / "own") == 0
    assert "other weights" not in caplog.text
    assert {*read(tmp_path / "own" / NAME)[LLMS]} == {"student"}
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    kept = {key: config[key] for key in ("num_hidden_layers", "hidden_size")}
    replaced(tmp_path / "student", **kept)
    with caplog.at_level(logging.WARNING):
        assert evaluate(*words, tmp_path / "other") == 0
    assert caplog.text.count(OTHER.format("student")) == 1
    assert evaluate(*words, tmp_path / "own") == 2


@pytest.mark.font
def test_another_autoencoder_draws_nothing_into_the_folder(model, tmp_path, capsys):
    """And a record of before, which does not know its own, says so."""
    llm, out = tmp_path / "tiny-llm", tmp_path / "out"
    words = (model, "--llm", llm, "--out", out)
    assert evaluate(*words) == 0
    (vae,) = tmp_path.glob("*-vae.safetensors")
    weights = load_file(vae)
    save_file({name: tensor * 1.01 for name, tensor in weights.items()}, vae)
    (out / FOLDER / "00500.png").unlink()
    assert evaluate(*words) == 2
    assert f"that was drawn by the autoencoder {vae.name} (" in capsys.readouterr().err
    assert not (out / FOLDER / "00500.png").exists()
    kept = read(out / NAME)
    del kept[AUTOENCODER]
    (out / NAME).write_text(json.dumps(kept))
    assert evaluate(*words) == 0
    assert read(out / "report.json")["record"][AUTOENCODER] == UNKNOWN
