"""Public benchmarks' prompts, and pictures as their own evaluators read them.

Each layout is read here in the steps of the public evaluator. Run: pytest tests/eval
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lidit_core.cli import main
from lidit_core.errors import LiDiTError
from lidit_eval.benchmarks import compbench, dpg, geneval
from lidit_eval.benchmarks.layouts import lay_out

ASKED = {
    "tag": "two_object",
    "include": [{"class": "bench", "count": 1}, {"class": "cup", "count": 1}],
    "prompt": "a photo of a bench and a cup",
}
COLUMNS = "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple"
QUESTIONS = f"""{COLUMNS},question_natural_language
3,"A cat, on a mat.",,1,0,entity,whole,entity - whole (cat),Is there a cat?
3,"A cat, on a mat.",,2,"1, 3",relation,spatial,"relation - spatial (on)",Is the cat on the mat?
3,"A cat, on a mat.",,3,0,entity,whole,entity - whole (mat),Is there a mat?
"""


def picture(path: Path, grey: int) -> Path:
    Image.new("RGB", (8, 8), (grey, grey, grey)).save(path)
    return path


@pytest.fixture
def pictures(tmp_path) -> list[Path]:
    return [picture(tmp_path / f"{n}.png", 40 * n) for n in range(4)]


def test_geneval(tmp_path, pictures):
    file = tmp_path / "evaluation_metadata.jsonl"
    file.write_text(json.dumps(ASKED) + "\n" + json.dumps({**ASKED, "tag": "counting"}) + "\n")
    items = geneval.read(file)
    assert [item.category for item in items] == ["two object", "counting"]
    lay_out("geneval", {12: (items[0], pictures)}, tmp_path / "out")
    images = tmp_path / "out" / "samples"
    found = [name for name in os.listdir(images) if (images / name).is_dir() and name.isdigit()]
    assert found == ["00012"]
    with open(images / found[0] / "metadata.jsonl") as lines:
        assert json.load(lines) == ASKED
    names = sorted(os.listdir(images / found[0] / "samples"))
    assert len(names) == 4 and all(re.match(r"\d+\.png", name) for name in names)
    assert np.asarray(Image.open(images / found[0] / "samples" / names[3])).max() == 120


def test_t2i_compbench(tmp_path, pictures):
    (tmp_path / "color_val.txt").write_text("a green bench and a red car\na 3/4 view\n")
    items = compbench.read(tmp_path / "color_val.txt")
    assert {item.category for item in items} == {"color"}
    every = {n: (item, pictures[2 * n : 2 * n + 2]) for n, item in enumerate(items)}
    lay_out("t2i-compbench", every, tmp_path / "out")
    names = os.listdir(tmp_path / "out" / "samples")
    names.sort(key=lambda name: int(name.split("_")[-1].split(".")[0]))
    assert [name.split("_")[0] for name in names] == ["a green bench and a red car"] * 2 + [
        "a 3 4 view"
    ] * 2
    assert np.asarray(Image.open(tmp_path / "out" / "samples" / names[3])).max() == 120


def test_dpg_bench(tmp_path, pictures):
    folder = tmp_path / "prompts"
    folder.mkdir()
    (folder / "3.txt").write_text("A cat, on a mat.\n")
    (tmp_path / dpg.TABLE).write_text(QUESTIONS)
    (item,) = dpg.read(folder)
    assert item.prompt == "A cat, on a mat." and item.key == "3"
    assert item.asked[2] == dpg.Question("Is the cat on the mat?", (1, 3))
    assert item.asked[1].needs == ()
    lay_out("dpg-bench", {0: (item, pictures)}, tmp_path / "out")
    (name,) = os.listdir(tmp_path / "out" / "samples")
    assert name.split(".")[0] == "3"
    sheet, side = Image.open(tmp_path / "out" / "samples" / name), 8
    crops = [(0, 0), (side, 0), (0, side), (side, side)]
    greys = [sheet.crop((x, y, x + side, y + side)).getextrema()[0] for x, y in crops]
    assert greys == [(0, 0), (40, 40), (80, 80), (120, 120)]
    lay_out("dpg-bench", {0: (item, pictures[:1])}, tmp_path / "one")
    assert Image.open(tmp_path / "one" / "samples" / "3.png").size == (8, 8)


@pytest.mark.parametrize(
    ("read", "name", "text"),
    [
        (geneval.read, "x.jsonl", "no json"),
        (geneval.read, "x.jsonl", '{"prompt": "a"}'),
        (geneval.read, "x.jsonl", '{"prompt": "a", "tag": "x", "include": 3}'),
        (geneval.read, "x.jsonl", '{"prompt": "a", "tag": "x", "include": [{"class": "cat"}]}'),
        (geneval.read, "x.jsonl", '{"prompt": "a", "tag": "x", "include": ["cat"]}'),
        (geneval.read, "x.jsonl", "[1]"),
        (dpg.read_questions, "x.csv", "a,b\n1,2\n"),
        (dpg.read_questions, "x.csv", QUESTIONS.replace(",2,", ",two,")),
    ],
)
def test_files_of_another_kind_are_told(tmp_path, read, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(LiDiTError, match="cannot be read"):
        read(tmp_path / name)


def test_missing_files_are_told(tmp_path):
    for read in (geneval.read, compbench.read, dpg.read, dpg.read_questions):
        with pytest.raises(LiDiTError, match="expected"):
            read(tmp_path / "none")


def test_a_prompt_of_several_lines_is_written_as_one(tmp_path, capsys):
    (tmp_path / "dpg").mkdir()
    for name, text in (("1", "a red cat\non a mat\n"), ("2", "two dogs")):
        (tmp_path / "dpg" / f"{name}.txt").write_text(text)
    written = tmp_path / "prompts.txt"
    words = ["eval", "--prompts", f"dpg-bench:{tmp_path / 'dpg'}", "--write", str(written)]
    assert main(words) == 0 and capsys.readouterr().out.startswith("2 prompts in ")
    assert written.read_text() == "a red cat on a mat\ntwo dogs\n"
