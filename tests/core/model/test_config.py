"""Configurations and presets. Run: pytest tests/core/model/test_config.py"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_lidit import lidit_config

import lidit_core
from lidit_core.errors import LiDiTError
from lidit_core.model.config import LatentFormat, LiDiTConfig, RefinerConfig
from lidit_core.model.presets import PRESETS, find_preset
from lidit_core.text.spec import LLMSpec

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("name", PRESETS)
def test_a_configuration_survives_json(name):
    config = PRESETS[name]
    assert LiDiTConfig.from_json(config.to_json()) == config
    assert json.loads(config.to_json())["llms"][0]["template"]["instruction"]


def test_defaults_are_the_papers():
    paper = PRESETS["LI-DiT-1B"]
    assert paper.prediction == "eps"
    assert [llm.block for llm in paper.llms] == [-3, -3]
    assert paper.refiner == RefinerConfig(2, True, True, True, True, "refiner", 1)
    assert "spatial relationships of the objects:" in paper.llms[0].template.instruction


def test_a_preset_is_never_mutated():
    assert find_preset("stickers", depth=2).depth == 2
    assert PRESETS["stickers"].depth != 2


def test_branches_by_name():
    config = lidit_config("a", "b")
    assert config.branch("b") == 1
    with pytest.raises(LiDiTError, match="'c'; it was trained on a, b"):
        config.branch("c")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"heads": 5}, "width 32 is no multiple of heads 5"),
        ({"llms": ()}, "0 LLMs"),
        ({"llms": (LLMSpec("a", 8), LLMSpec("a", 8))}, "repeat"),
        ({"prediction": "x0"}, "'x0'"),
        ({"heads": 0}, "heads=0; expected more than 0"),
        ({"patch": 0}, "patch=0"),
        ({"steps": -1}, "steps=-1"),
        ({"native_size": 40}, "native_size 40 is no multiple of 16"),
    ],
)
def test_fields_are_checked_against_each_other(change, words):
    with pytest.raises(LiDiTError, match=words):
        replace(lidit_config("a"), **change)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: LLMSpec("a", 0), "width 0"),
        (lambda: LLMSpec("a", 8, token_budget=0), "0 tokens"),
        (lambda: LLMSpec("a", 8, block="some"), "'some'"),
        (lambda: LatentFormat("x", std=(0.0,)), "std"),
        (lambda: LatentFormat("x", rgb_factors=((1.0,),)), "preview factors of shape"),
        (lambda: RefinerConfig(blocks=-1), "blocks=-1"),
        (lambda: RefinerConfig(fusion="sum"), "'sum'"),
        (lambda: LatentFormat("x", mean=(0.0, 1.0)), "2 numbers in mean"),
        (lambda: find_preset("LI-DiT-2B"), "LI-DiT-1B, LI-DiT-10B"),
    ],
)
def test_values_are_checked(make, words):
    with pytest.raises(LiDiTError, match=words):
        make()


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda d: d.update(colour=1), "unknown field 'colour'"),
        (lambda d: d["llms"][0].update(blok=1), "llms\\[0\\] has unknown field 'blok'"),
        (lambda d: d["llms"][0]["template"].update(tail=1), "'tail'"),
        (lambda d: d.update(depth="2"), "depth is '2'; expected int"),
        (lambda d: d.update(depth=True), "depth is True"),
        (lambda d: d.update(llms=3), "llms is 3; expected a list"),
        (lambda d: d.update(refiner=[]), "refiner is \\[\\]"),
        (lambda d: d.pop("depth"), "incomplete"),
        (lambda d: d.update(format=99), "format 99"),
    ],
)
def test_a_wrong_file_gets_one_sentence(change, words):
    data = json.loads(lidit_config("a").to_json())
    change(data)
    with pytest.raises(LiDiTError, match=words):
        LiDiTConfig.from_json(json.dumps(data))


@pytest.mark.parametrize("text", ["", "[]", "{", "3"])
def test_no_json_object_gets_one_sentence(text):
    with pytest.raises(LiDiTError, match="no JSON object"):
        LiDiTConfig.from_json(text)


def test_public_names_are_there_and_cost_nothing_until_used():
    code = "import sys, lidit_core; assert 'torch' not in sys.modules; print(lidit_core.LiDiT)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "lidit_core.model.dit.LiDiT" in result.stdout, result.stderr
    assert all(getattr(lidit_core, name) is not None for name in lidit_core.__all__)
    with pytest.raises(AttributeError, match="LiDiT2"):
        lidit_core.LiDiT2  # noqa: B018
