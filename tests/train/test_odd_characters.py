"""Text that is none, for trainers. Run: pytest tests/train/test_odd_characters.py"""

from __future__ import annotations

import json

import torch
import yaml
from tiny_training import fields

from lidit_train.recipe_file import read_recipe
from lidit_train.run import RECIPE, _note_recipe
from lidit_train.tasks.adapter.clip_file import Encoder
from lidit_train.tasks.adapter.clip_tokenizer import clip_tokenizer

HALF = "a \ud83d cat"  # half of an emoji, which JSON and YAML can escape


def test_clip_reads_it_as_a_question_mark():
    encoder = Encoder(clip_tokenizer(), torch.nn.Identity())
    assert torch.equal(encoder.ids([HALF, "a dog"]), encoder.ids(["a ? cat", "a dog"]))


def test_a_recipe_that_has_it_is_kept_with_its_run(tmp_path):
    data = fields(tmp_path, validation={"prompts": [HALF, "猫"], "every": 2})
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(data), encoding="utf-8")  # JSON is YAML
    assert yaml.safe_load(path.read_text())["validation"]["prompts"][0] == HALF
    _note_recipe(read_recipe(path), tmp_path)
    text = (tmp_path / RECIPE).read_text(encoding="utf-8")
    assert json.loads(text)["validation"]["prompts"] == [HALF, "猫"] and "猫" in text
