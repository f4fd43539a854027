"""Each guidance draws what it says, 0 too. Run: pytest tests/eval/test_guidance.py"""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from tiny_adapter_training import make_world, run_adapter, write_demo_checkpoint
from tiny_bridge import bridge_recipe, make_bridge_world, make_demo_recording
from tiny_lidit import lidit_config, save_lidit_files
from tiny_llm import save_llm

from lidit_core.cli import main
from lidit_core.io.pictures import read_settings
from lidit_eval.benchmarks.item import PromptItem
from lidit_eval.bridge_drawer import BridgeDrawer
from lidit_eval.drawers import GUIDANCE, STEPS, AdapterDrawer
from lidit_eval.drawing import FOLDER
from lidit_eval.items import DrawingTask
from lidit_train.run import train

pytest.importorskip("diffusers")

NONE = dict.fromkeys(("adapter", "bridge", "vae", "size", "spread", "cache"))
SETTINGS = {**NONE, "lora": [], "steps": 3, "mode": "add"}


@pytest.fixture(scope="module")
def adapted(tmp_path_factory) -> dict:
    """A demo checkpoint, an adapter that learnt one step, and how it is drawn with."""
    folder = make_world(tmp_path_factory.mktemp("adapted"))
    stages = [{"images": 4, "batch": 4, "resolution": 32}]
    run_adapter(folder, "run", stages=stages)
    words = {"llm": [str(folder / "llm")], "adapter": str(folder / "run" / "final.safetensors")}
    return {**SETTINGS, **words, "model": str(folder / "base.safetensors")}


@pytest.fixture(scope="module")
def bridged(tmp_path_factory) -> dict:
    """A demo checkpoint, a bridge to it, and how it is drawn with."""
    folder = tmp_path_factory.mktemp("bridged")
    make_bridge_world(folder, False, "student")
    make_demo_recording(folder / "bag", write_demo_checkpoint(folder / "base.safetensors"))
    data = {"sources": [{"kind": "recording", "path": str(folder / "bag")}]}
    train(bridge_recipe(folder, data=data, checkpoints={"every": 100}), folder / "run", "cpu")
    words = {"llm": [str(folder / "student")], "bridge": str(folder / "run" / "final.safetensors")}
    return {**SETTINGS, **words, "model": str(folder / "base.safetensors")}


@pytest.mark.parametrize(("kind", "given"), [(AdapterDrawer, "adapted"), (BridgeDrawer, "bridged")])
def test_guidance_0_reads_no_prompt(kind, given, request):
    """Another prompt gives another picture but at 0; what is not given is a U-Net's own."""
    words = request.getfixturevalue(given)
    tasks = [DrawingTask(0, 0, PromptItem(text, "any"), 7) for text in ("a red cat", "two dogs")]
    for guidance, alike in ((0.0, True), (3.0, False)):
        drawer = kind(Namespace(**words, cfg=guidance), "cpu")
        cat, dogs = (list(drawer.draw([task]))[0] for task in tasks)
        assert torch.equal(cat, dogs) is alike, guidance
    drawer = kind(Namespace(**{**words, "steps": None}, cfg=None), "cpu")
    assert (drawer.steps, drawer.guidance) == (STEPS, GUIDANCE)


@pytest.fixture
def evaluate(tmp_path, monkeypatch, capsys):
    """Runs `lidit eval` with a tiny LI-DiT in an empty folder: (exit status, stderr)."""
    monkeypatch.chdir(tmp_path)
    save_llm(tmp_path / "tiny-llm")
    save_lidit_files(tmp_path, lidit_config("tiny-llm", native_size=64, steps=2))
    capsys.readouterr()

    def run(*words: str) -> tuple[int, str]:
        given = ["model.safetensors", "--llm", "tiny-llm", "--every", "540", "--out", "out"]
        return main(["eval", *given, *words]), capsys.readouterr().err

    return run


def drawn_with(folder: Path) -> tuple[dict, dict]:
    record = json.loads((folder / "evaluation.json").read_text())
    return record, read_settings(folder / FOLDER / "00000.png")


@pytest.mark.font
def test_pictures_of_guidance_0_are_mixed_with_no_others(evaluate, tmp_path):
    assert evaluate("--cfg", "0")[0] == 0
    record, picture = drawn_with(tmp_path / "out")
    assert record["cfg"] == 0 and picture["cfg"] == 0
    for words in ([], ["--cfg", "1"]):
        status, err = evaluate(*words)
        assert status == 2 and "holds an evaluation with cfg=0.0, and this one has" in err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [(["--steps", "0"], "0 steps were asked for"), (["--cfg", "nan"], "guidance is nan")],
)
def test_what_no_model_draws_with_leaves_no_record(evaluate, tmp_path, words, sentence):
    """A record of it would refuse the command that is mended."""
    status, err = evaluate(*words)
    assert status == 2 and sentence in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()
