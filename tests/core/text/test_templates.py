"""Instruction templates are plain data. Run: pytest tests/core/text/test_templates.py"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from lidit_core.errors import LiDiTError
from lidit_core.text.templates import PRESETS, InstructionTemplate, find_template, read_template


def test_presets():
    assert set(PRESETS) == {"paper", "none", "short", "long"}
    assert PRESETS["paper"].instruction == (
        "Describe the image by detailing the color, shape, size, texture, quantity, text, and "
        "spatial relationships of the objects:"
    )
    assert PRESETS["none"].user_turn() == ("", "")
    assert len(PRESETS["short"].instruction) < 40 < len(PRESETS["long"].instruction)


@pytest.mark.parametrize("name", PRESETS)
def test_json_round_trip(name):
    assert InstructionTemplate.from_json(PRESETS[name].to_json()) == PRESETS[name]


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRESETS["paper"].system = "x"


@pytest.mark.parametrize(
    "values, message",
    [
        ({"name": "a", "instructions": "x"}, "unknown field 'instructions'.*instruction"),
        ({"instruction": "x"}, "no field 'name'"),
        ({"name": "a", "system": 3}, "system is 3"),
        ({"name": "a", "keep_tail": "yes"}, "keep_tail is 'yes'"),
        ({"name": "a", "layout": "no place"}, "exactly once"),
        ({"name": "a", "layout": "{prompt} and {prompt}"}, "exactly once"),
    ],
)
def test_wrong_fields(values, message):
    with pytest.raises(LiDiTError, match=message):
        InstructionTemplate.from_json(json.dumps(values))


@pytest.mark.parametrize("text", ["{", "[]", "3"])
def test_not_a_template(text):
    with pytest.raises(LiDiTError):
        InstructionTemplate.from_json(text)


def test_where_the_prompt_goes():
    template = InstructionTemplate(
        "t", instruction="Draw", layout="{instruction}: «{prompt}». Now!"
    )
    assert template.user_turn() == ("Draw: «", "». Now!")
    braces = InstructionTemplate("t", instruction="{x}", layout="{instruction}{{}}{prompt}")
    assert braces.user_turn() == ("{x}{{}}", "")


def test_files(tmp_path):
    (tmp_path / "poem.txt").write_text("Read the poem:\n", encoding="utf-8")
    (tmp_path / "quoted.txt").write_text("画 «{prompt}»", encoding="utf-8")
    (tmp_path / "full.json").write_text('{"instruction": "Look:", "keep_tail": false}')
    names = ("poem.txt", "quoted.txt", "full.json")
    found = {Path(name).stem: read_template(tmp_path / name) for name in names}
    assert found["poem"].user_turn() == ("Read the poem: ", "")
    assert found["quoted"].user_turn() == ("画 «", "»")
    assert found["full"] == InstructionTemplate("full", instruction="Look:", keep_tail=False)
    assert find_template(str(tmp_path / "full.json")) == found["full"]
    (tmp_path / "wrong.json").write_text('{"instuction": "x"}')
    with pytest.raises(LiDiTError, match="wrong.json.*instuction"):
        read_template(tmp_path / "wrong.json")


def test_finding():
    assert find_template("paper") is PRESETS["paper"]
    assert find_template(PRESETS["short"]) is PRESETS["short"]
    assert find_template("Draw {prompt} now").user_turn() == ("Draw ", " now")
    with pytest.raises(LiDiTError, match="nobody.*paper, none, short, long"):
        find_template("nobody")
    with pytest.raises(LiDiTError, match="cannot be read"):
        find_template("nowhere.json")


def test_the_module_needs_the_standard_library_alone():
    """Templates can be read where neither torch nor transformers is."""
    root = Path(__file__).resolve().parents[3] / "lidit_core"
    script = (
        "import sys, types, pathlib\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "for name, path in (('lidit_core', root), ('lidit_core.text', root / 'text')):\n"
        "    sys.modules[name] = types.ModuleType(name); sys.modules[name].__path__ = [str(path)]\n"
        "import lidit_core.text.templates\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(root)], check=True)
