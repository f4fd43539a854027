"""`lidit eval --dtype`. Run: pytest tests/eval/test_dtype_drawn.py"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_lidit import lidit_config, save_lidit_files
from tiny_llm import save_llm

from lidit_core.cli import main
from lidit_core.io.pictures import read_settings
from lidit_eval.drawing import FOLDER

GENEVAL = {"tag": "counting", "include": [{"class": "cat", "count": 2}], "prompt": "two cats"}
PROMPTS = ["--prompts", "geneval:asked.jsonl", "--judge", "none", "--device", "cpu"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("tiny")
    made = save_lidit_files(folder, lidit_config("tiny-llm", steps=2))
    return [str(made), "--llm", str(save_llm(folder / "tiny-llm"))]


@pytest.fixture
def evaluate(model, tmp_path, monkeypatch, capsys):
    """Runs `lidit eval` of one prompt into ./out: (exit status, stderr)."""
    monkeypatch.chdir(tmp_path)
    Path("asked.jsonl").write_text(json.dumps(GENEVAL) + "\n")

    def run(*words: str, drawn: bool = True) -> tuple[int, str]:
        given = model if drawn else []
        status = main(["eval", *given, *PROMPTS, "--out", "out", *words])
        return status, capsys.readouterr().err

    return run


def record() -> dict:
    return json.loads(Path("out/evaluation.json").read_text())


def picture() -> Path:
    return next(Path("out", FOLDER).iterdir())


def test_the_record_tells_what_is_no_default_and_nothing_else_goes_on(evaluate):
    assert evaluate("--dtype", "bf16")[0] == 0
    assert record()["dtype"] == "bf16" and read_settings(picture())["dtype"] == "bf16"
    assert "| dtype | bf16 |" in Path("out/report.md").read_text()
    before = picture().read_bytes()
    for words in ((), ("--dtype", "float32"), ("--dtype", "float16")):
        status, told = evaluate(*words)
        assert status == 2 and "holds an evaluation with dtype='bf16', and this one has" in told
    picture().unlink()
    assert evaluate("--dtype", "bf16")[0] == 0
    assert picture().read_bytes() == before


def test_the_default_is_told_nowhere_so_that_older_folders_go_on(evaluate):
    assert evaluate()[0] == 0
    assert "dtype" not in record() and "dtype" not in read_settings(picture())
    before = picture().read_bytes(), Path("out/report.json").read_bytes()
    picture().unlink()
    assert evaluate("--dtype", "float32")[0] == 0
    assert (picture().read_bytes(), Path("out/report.json").read_bytes()) == before
    status, told = evaluate("--dtype", "bf16")
    assert status == 2 and "dtype=None, and this one has 'bf16'; name another folder" in told
    assert evaluate("--dtype", "bf16", "--out", "other")[0] == 0
    assert picture().read_bytes() != next(Path("other", FOLDER).iterdir()).read_bytes()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--pictures", "some"], "--dtype would say how pictures are drawn, and with --pictures"),
        (["m", "--adapter", "a"], "--dtype bf16 is what a LI-DiT computes in, and with --adapter"),
        (["m", "--bridge", "b"], "--dtype bf16 is what a LI-DiT computes in, and with --bridge a"),
    ],
)
def test_where_no_lidit_draws_it_is_refused(evaluate, words, sentence):
    status, told = evaluate("--dtype", "bf16", *words, drawn=False)
    assert status == 2 and sentence in told and told.count("\n") == 1
    assert not Path("out").exists()
