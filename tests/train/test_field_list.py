"""The list of a recipe's fields, and its schema. Run: pytest tests/train/test_field_list.py

What the page and the schema should be, after a change of fields, these commands write:
    lidit train --fields markdown > docs/fields.md
    lidit train --fields schema > recipes/recipe.schema.json
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from tiny_training import RECIPES, fields

from lidit_core.cli import main
from lidit_core.errors import LiDiTError
from lidit_core.io.records import read_record
from lidit_train.field_list.reading import NO_DEFAULT, meaning, walk
from lidit_train.recipe import Recipe
from lidit_train.recipe_file import _Yaml, field_names

ROOT = Path(__file__).resolve().parents[2]
FIELDS = dict(walk())
REQUIRED = {  # of a section's fields, those that have a default and need another value
    "adapter": {"base": "b", "llm": "l"},
    "alignment": {"encoder": "e"},
    "bridge": {"llms": ["l"]},
    "bridge.through": {"base": "b"},
    "data": {"sources": [{"kind": "folder", "path": "x"}]},
}


def printed(capsys, *how: str) -> str:
    assert main(["train", "--fields", *how]) == 0
    return capsys.readouterr().out


def test_the_page_and_the_schema_are_what_the_commands_of_the_first_lines_print(capsys):
    for line in re.findall(r"^    lidit (train --fields .*)$", __doc__, re.MULTILINE):
        words, file = line.split(" > ")
        assert main(words.split()) == 0
        assert capsys.readouterr().out == (ROOT / file).read_text(encoding="utf-8"), f"type: {line}"


def test_every_field_is_printed_with_what_it_means(capsys):
    text, page = printed(capsys), printed(capsys, "markdown")
    assert {place.replace("[]", "") for place, f in FIELDS.items() if not f.record} == set(
        field_names()
    )
    for place, field in FIELDS.items():
        assert meaning(field), f"{place} has no comment that says what it means"
        assert f"\n{place}: " in f"\n{text}" and f"| `{field.name}` |" in page
    assert "\nlora.rank: integer, 1 or more, default 16\n    of the two matrices" in text


def test_ranges_are_what_a_record_refuses():
    """Of every field with a range, a value outside of it is refused in a sentence."""
    tried = 0
    for place, field in FIELDS.items():
        sections = place.replace("[]", "").split(".")[:-1]
        if field.limits.choices:
            bad, told = "no such choice", "expected one of"
        elif isinstance(field.limits.low, (int, float)):
            bad, told = field.limits.low - 1, "expected"
        else:
            continue
        if place == "trains":  # which the tasks refuse
            continue
        record = next(
            f.record for p, f in FIELDS.items() if p.replace("[]", "") == ".".join(sections)
        )
        value = [bad] if field.is_list else bad
        required = {
            f.name: {str: "x", int: 1, float: 1.0}.get(f.kind, ["x"])
            for p, f in FIELDS.items()
            if p.rpartition(".")[0] == place.rpartition(".")[0] and f.default is NO_DEFAULT
        }
        required |= {"kind": "folder"} if "kind" in required else {}
        required |= REQUIRED.get(".".join(sections), {})
        with pytest.raises(LiDiTError, match=told):
            read_record(record, {**required, field.name: value}, "recipe")
        tried += 1
    assert tried > 30


def schema() -> dict:
    return json.loads((ROOT / "recipes" / "recipe.schema.json").read_text())


def validator():
    jsonschema = pytest.importorskip("jsonschema")
    return jsonschema.Draft7Validator(schema())


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_schema_takes_every_recipe_and_each_names_it(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: $schema=recipe.schema.json\n")
    assert not list(validator().iter_errors(yaml.load(text, _Yaml)))


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"sede": 1}, []),
        ({"seed": "one"}, ["seed"]),
        ({"trains": "everything"}, ["trains"]),
        ({"optimiser": {"ema": 2}}, ["optimiser", "ema"]),
        ({"validation": {"prompts": [3]}}, ["validation", "prompts", 0]),
        ({"validation": {"prompts": [{"txt": "a"}]}}, ["validation", "prompts", 0]),
        ({"lora": {"layers": "blocks"}}, ["lora", "layers"]),
        ({"stages": [{"images": 4}]}, ["stages", 0]),
    ],
)
def test_the_schema_refuses_what_the_trainer_refuses(change, place):
    data = {**fields(Path("x")), **change}
    found = list(validator().iter_errors(data))
    assert [list(error.absolute_path) for error in found] == [place]
    if "trains" not in change:  # which the task refuses, and not the record
        with pytest.raises(LiDiTError):
            read_record(Recipe, data, "recipe")


def test_numbers_may_be_spaced_as_recipes_have_them():
    data = {**fields(Path("x")), "stages": [{"images": "1_024_000", "batch": 4}]}
    assert not list(validator().iter_errors(data))
    data["stages"][0]["images"] = "many"
    assert list(validator().iter_errors(data))


def test_without_a_recipe_nothing_else_is_done(capsys):
    assert main(["train", "--out", "x"]) == 2
    assert "RECIPE is missing" in capsys.readouterr().err
