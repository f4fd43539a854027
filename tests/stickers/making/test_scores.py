"""The tables and the strip that tell what the shipped weights draw."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lidit_core.errors import LiDiTError
from lidit_core.io.hashes import sha256
from lidit_core.llm.locate import available
from lidit_core.paths import SHIPPED_WEIGHTS
from lidit_stickers.making import adapter_scores, scores
from lidit_stickers.making.tables import BLOCK, write

ROOT = Path(__file__).resolve().parents[3]
MODEL, VAE, CHECKPOINT, ADAPTER = (
    sha256(SHIPPED_WEIGHTS / f"stickers{part}.safetensors")[:12]
    for part in ("", "-vae", "-sd", "-adapter")
)
SMALLEST = "--every", "180"  # one prompt of each category


def _run(name: str, *words: str) -> str:
    command = [sys.executable, "-m", f"lidit_stickers.making.{name}", *words]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.long
@pytest.mark.font
@pytest.mark.llm
def test_the_tables_are_drawn_judged_and_written(tmp_path):
    for llm in ("SmolLM2-135M-Instruct", "gemma-3-270m"):
        if not available(llm):
            pytest.skip(f"{llm} is not on this machine; get it with `lidit fetch`")
    document = tmp_path / "document.md"
    document.write_text(
        "above\n<!-- scores: fixed -->\nold\n<!-- end of scores -->\nbetween\n"
        "<!-- scores: lists -->\n<!-- end of scores -->\nbelow\n"
        "<!-- scores: duo -->\n<!-- end of scores -->\n"
    )
    told = _run("scores", "--out", str(tmp_path), *SMALLEST, "--write", str(document))
    text = document.read_text()
    fixed, lists, duo = (text[found.end(1) : found.start(3)] for found in BLOCK.finditer(text))
    assert "| model | stickers-duo (" in duo and duo.count("| all | 6 |") == 1
    assert told == f"{fixed}\n{lists}"
    assert fixed.startswith(f"Weights {MODEL}, autoencoder {VAE}; `python -m ")
    assert "docs/reports.md --every 180`:" in fixed and "--every 180`:" in lists
    assert "| 6 pictures | single object | two objects |" in fixed
    assert lists.count("\n|") == 2 + 11  # a head and eleven lists
    assert text.startswith("above\n") and "between\n" in text and "below\n" in text
    assert "old" not in text
    folder = tmp_path / f"{MODEL}-{VAE}"
    assert (folder / "evaluation-stickers-gemma-3-270m" / "report.md").is_file()
    again = _run("scores", "--out", str(tmp_path), *SMALLEST)  # nothing is drawn anew
    assert again == told


def test_a_document_without_a_place_is_one_sentence(tmp_path):
    document = tmp_path / "document.md"
    for text, told in {
        "nothing": "marks no table; expected",
        "<!-- scores: wrong -->\n<!-- end of scores -->\n": "marks wrong; expected",
    }.items():
        document.write_text(text)
        with pytest.raises(LiDiTError, match=told):
            write(document, {"fixed": "", "lists": ""})
        assert document.read_text() == text


def test_a_mistake_is_told_before_anything_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(scores, "evaluate", None)
    (tmp_path / "document.md").write_text("nothing")
    for words, told in {
        ("--write", "document.md"): "marks no table",
        ("--write", "none.md"): "none.md cannot be read",
        ("--every", "0"): "--every is 0",
        ("--every", "181"): "--every is 181; expected 1 to 180",
    }.items():
        monkeypatch.chdir(tmp_path)
        with pytest.raises(LiDiTError, match=told):
            scores.main(["--out", "out", *words])
    assert not (tmp_path / "out").exists()


@pytest.mark.long
@pytest.mark.font
@pytest.mark.llm
def test_the_adapters_table_is_drawn_judged_and_written(tmp_path):
    pytest.importorskip("diffusers")
    if not available("SmolLM2-135M-Instruct"):
        pytest.skip("SmolLM2-135M-Instruct is not on this machine; get it with `lidit fetch`")
    document = tmp_path / "document.md"
    document.write_text("above\n<!-- scores: adapter -->\n<!-- end of scores -->\nbelow\n")
    told = _run("adapter_scores", "--out", str(tmp_path), *SMALLEST, "--write", str(document))
    assert f"-->\n{told}<!--" in document.read_text()
    head = f"Checkpoint {CHECKPOINT}, adapter {ADAPTER}, autoencoder {VAE}; `python -m "
    assert told.startswith(head)
    assert "--every 180`:" in told and "| 6 pictures | single object | two objects |" in told
    for mode in ("base", "add", "replace"):
        assert (tmp_path / f"{CHECKPOINT}-{ADAPTER}-{VAE}" / mode / "report.md").is_file()
    assert "In mode add the same prompts gain, in pairs: strict " in told
    assert _run("adapter_scores", "--out", str(tmp_path), *SMALLEST) == told


@pytest.mark.parametrize(
    ("name", "tables"), [("README.md", 1), ("docs/results.md", 2), ("docs/reports.md", 2)]
)
def test_the_documents_tell_of_the_weights_that_ship(name, tables):
    told = [found for found in BLOCK.finditer((ROOT / name).read_text(encoding="utf-8"))]
    assert len(told) == tables
    for found in told:
        assert f"\nWeights {MODEL}, autoencoder {VAE}; `" in found[0]
        numbers = ("| 1,080 pictures |", "| 1080 |", "| all | 1080 |", "| all | 360 |")
        assert any(number in found[0] for number in numbers)


@pytest.mark.llm
def test_the_adapters_document_tells_of_the_files_that_ship():
    (found,) = BLOCK.finditer((ROOT / "docs" / "llmdiff.md").read_text(encoding="utf-8"))
    drawn_by = adapter_scores.drawn_by()
    assert found[0].startswith(f"<!-- scores: adapter -->\n{drawn_by}; `python")
    assert "| 1,080 pictures |" in found[0]


def test_the_strip_is_eight_pictures(tmp_path):
    if not available("SmolLM2-135M-Instruct"):
        pytest.skip("SmolLM2-135M-Instruct is not on this machine; get it with `lidit fetch`")
    file = tmp_path / "strip.png"
    assert "8 pictures" in _run("strip", "--out", str(file))
    strip = np.asarray(Image.open(file))
    assert strip.shape == (128, 8 * 128, 3)
    assert len({picture.tobytes() for picture in np.split(strip, 8, axis=1)}) == 8
