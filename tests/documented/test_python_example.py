"""The example of docs/cli.md runs. Run: pytest tests/documented/test_python_example.py"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from PIL import Image
from tiny_lidit import lidit_config, save_lidit_files
from tiny_llm import save_llm

import lidit_core
from lidit_core.io.pictures import read_settings
from lidit_core.pipeline import load_pipeline

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cli.md"


def test_the_python_example_ends_with_a_saved_picture(tmp_path, monkeypatch):
    """It draws the first picture once more from the names beside `sample`, of a tiny model here."""
    llm = str(save_llm(tmp_path / "one"))
    model = str(save_lidit_files(tmp_path, lidit_config("one")))

    def load(name: str, template: str):
        assert name == "stickers"
        return load_pipeline(model, [llm], "cpu", template=template)

    monkeypatch.setattr(lidit_core, "load_pipeline", load, raising=False)
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict = {}
    exec(compile(block, str(PAGE), "exec"), names)
    assert names["read"].tokens(0) and names["seen"].words and names["own"].full.shape
    first = lidit_core.Order("two cats and a dog", seed=0)
    (expected,) = names["pipeline"].pictures([first])
    assert torch.equal(names["picture"], expected)
    with Image.open("cats.png") as picture:
        assert picture.tobytes() == expected.numpy().tobytes()
    assert read_settings("cats.png") == {"prompt": "two cats and a dog", "seed": 0}
