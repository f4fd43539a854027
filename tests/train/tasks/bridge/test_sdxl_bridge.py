"""A bridge for SDXL: its plans before recording and bridge are there, and its recipe, tiny.

Run: pytest tests/train/tasks/bridge/test_sdxl_bridge.py
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tiny_bridge import make_bridge_world
from tiny_llm import smollm2_without_weights

from lidit_core.bridge.file import load_bridge
from lidit_core.cli import main
from lidit_train.plan.hardware import DEVICES
from lidit_train.tasks.bridge.assumed import AssumedPrompts

pytest.importorskip("diffusers")

ROOT = Path(__file__).resolve().parents[4]
RECIPES = ROOT / "recipes"
PAGE = ROOT / "docs" / "sdxl-bridge.md"
GPUS = "RTX 3060", "RTX 4070"


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Path:
    """An empty folder, and SmolLM2's sizes without its weights where LLMs are found."""
    smollm2_without_weights(tmp_path / "cache")
    (tmp_path / "here").mkdir()
    monkeypatch.setattr("lidit_train.plan.hardware.measured_speed", lambda seconds: 1e11)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("LIDIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "here"


def planned(capsys, recipe: str, *changes: str, device: str = GPUS[0]) -> str:
    """What `lidit train --print-plan` says of a recipe that ships, for 12 GB."""
    given = (f"hardware.device={device}", *changes)
    words = [word for change in given for word in ("--set", change)]
    assert main(["train", "--print-plan", str(RECIPES / f"{recipe}.yaml"), *words]) == 0
    return capsys.readouterr().out


def test_a_plan_needs_neither_recording_nor_bridge_nor_checkpoint(desk, capsys):
    """Of each stage for SDXL; all fit 12 GB, and nothing is written."""
    first = planned(capsys, "sdxl-bridge")
    assert "recordings/sdxl is not there yet; assumed are 20,000 prompts" in first
    assert "Bridge to SDXLClipModel: rows of 2048" in first and "on 20,000 prompts of 84" in first
    assert "the recording, which is to be made" in first
    second = planned(capsys, "bridge-through", "stages.0.images=640")
    assert "runs/bridge/final.safetensors is not there yet; assumed is one by SmolLM2" in second
    assert "2.567 billion  sdxl; 5 points of a trajectory of 10" in second
    third = planned(capsys, "bridge-pairs")
    assert "runs/through/final.safetensors is not there yet; assumed is one by SmolLM2" in third
    for told in (first, second, third):
        assert " fits\n" in told and "DOES NOT FIT" not in told
    assert not list(desk.iterdir())


@pytest.mark.parametrize("recipe", ["bridge-through", "bridge-pairs"])
def test_a_frozen_unet_in_8_bits_is_planned_as_such(desk, capsys, recipe):
    """Its 2.567 billion numbers, 5.13 GB in bf16, are mostly matrices of a byte a number."""
    for change, size in (("bf16", "5.13 GB"), ("int8", "2.58 GB"), ("fp8", "2.58 GB")):
        told = planned(capsys, recipe, f"compute.frozen={change}")
        (line,) = [line for line in told.splitlines() if "U-Net, frozen" in line]
        assert size in line, told


ROW = re.compile(
    r"^\| `lidit train --print-plan recipes/(\S+)\.yaml(?: --set (\S+))?` \| (.*) \|$", re.M
)


def test_the_pages_figures_are_what_the_commands_print(desk, capsys):
    text = PAGE.read_text(encoding="utf-8")
    rows = ROW.findall(text)
    assert len(rows) == 4
    for recipe, change, figures in rows:
        memory, *times = figures.split(" | ")
        for device, expected in zip(GPUS, times, strict=True):
            told = planned(capsys, recipe, *filter(None, [change]), device=device)
            lines = {line[:46].strip(): line[46:].split("  ") for line in told.splitlines()}
            found = {name: [x.strip() for x in cells if x.strip()] for name, cells in lines.items()}
            assert found["peak"] == [memory, "fits"], recipe
            assert re.search(rf"^  stage 0 +{expected}  ", told, re.M), (recipe, expected)
        if recipe == "sdxl-bridge":
            for name in ("the recording, which is to be made", "states of the prompts", "ridge"):
                assert re.search(rf"(?<![\d.]){found[name][0].replace(' ', chr(92) + 's')}", text)


def test_the_recipe_trains_from_a_recording(tmp_path):
    """`lidit train recipes/sdxl-bridge.yaml` with a tiny recording and LLM, two steps of two."""
    make_bridge_world(tmp_path)
    made = {"bridge.llms": f"[{tmp_path / 'student'}]"}
    made |= {"data.sources.0.path": str(tmp_path / "recording")}
    made |= {"stages": "[{images: 4, batch: 2}]", "log.trackers": "[]", "optimiser.warmup": "0"}
    words = [word for name, value in made.items() for word in ("--set", f"{name}={value}")]
    recipe, out = str(RECIPES / "sdxl-bridge.yaml"), tmp_path / "out"
    assert main(["train", recipe, "--out", str(out), "--device", "cpu", *words]) == 0
    assert load_bridge(out / "final.safetensors").bridge.config.teacher.name == "windowed"
    assert not (out / "weights").exists()  # one file is measured and written, at the end


def test_sizes_of_sd15_are_known_too(desk, capsys):
    told = planned(capsys, "sdxl-bridge", "data.sources.0.path=recordings/sd15")
    assert "Bridge to SD1ClipModel: rows of 768" in told
    told = planned(capsys, "bridge-through", "bridge.through.base=sd15", "stages.0.resolution=512")
    assert "by SD1ClipModel" in told and " sd15; 5 points" in told


def test_a_run_or_an_unknown_encoder_is_refused_as_before(desk, capsys):
    recipe = str(RECIPES / "sdxl-bridge.yaml")
    assert main(["train", recipe, "--out", "out", "--device", "cpu"]) == 2
    words = ["--print-plan", recipe, "--set", "data.sources.0.path=recordings/mine"]
    assert main(["train", *words]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2 and all("holds no recording" in line for line in told)


def test_assumed_prompts_are_those_of_the_collection_in_the_mean(desk):
    """As measured over the 20,000 prompts of seed 0: 134.95 letters and 83.86 rows."""
    prompts = AssumedPrompts.of("sdxl")
    learnt, held_out = prompts.split(0.05, 0)
    assert (len(learnt), len(held_out)) == (19_500, 500)
    letters = [len(text) for text in prompts.texts]
    assert sum(letters) / len(letters) == pytest.approx(134.95, rel=0.01)
    rows = [len(prompts.rows(n).ids) for n in range(11)]
    assert set(rows) == {77, 154} and sum(rows) / 11 == pytest.approx(83.86, rel=0.01)


def test_ridge_is_planned_on_the_cpu_that_computes_it(desk, capsys):
    """Of 100 GFLOP/s here, though the plan is for a GPU."""
    lines = planned(capsys, "sdxl-bridge").splitlines()
    (ridge,) = (line.split() for line in lines if line.startswith("  ridge"))
    assert ridge == ["ridge", "9.0", "minutes", "on", "this", "CPU"]


@pytest.mark.parametrize(
    ("name", "processors", "clock"), [("RTX 4070", 46, 2.475), ("RTX 3060", 28, 1.777)]
)
def test_peaks_follow_from_what_the_vendor_says(name, processors, clock):
    device = DEVICES[name]
    assert device.float32 == pytest.approx(processors * 128 * 2 * clock * 1e9, rel=0.01)
    assert device.bf16 == pytest.approx(2 * device.float32, rel=0.01) and device.memory == 12e9
