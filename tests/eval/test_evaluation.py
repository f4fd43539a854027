"""`lidit eval` from prompts to report. Run: pytest tests/eval/test_evaluation.py"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_lidit import lidit_config, save_lidit_files
from tiny_llm import save_llm

from lidit_core.cli import main
from lidit_core.io.pictures import read_settings
from lidit_core.llm.locate import available
from lidit_eval.drawing import FOLDER
from lidit_eval.items import items_of, tasks_of
from lidit_eval.verdicts import NAME
from lidit_stickers.judging import LISTS
from lidit_stickers.scorer.selftest import drawn

OUTS = ("plain", "weighed")
EVERY = 120  # of 1,080 prompts: nine, at least one of each category


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    save_llm(folder / "tiny-llm")
    config = lidit_config("tiny-llm", native_size=64, steps=2)
    save_lidit_files(folder, config)
    return folder


@pytest.fixture
def evaluate(folder, tmp_path, monkeypatch, capsys):
    """Runs `lidit eval` with the tiny model in an empty folder: (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIDIT_CACHE", str(tmp_path / "cache"))

    def run(*words: str, model: bool = True) -> tuple[int, str, str]:
        given = [str(folder / "model.safetensors"), "--llm", str(folder / "tiny-llm")]
        status = main(["eval", *(given if model else []), "--every", str(EVERY), *words])
        told = capsys.readouterr()
        return status, told.out, told.err

    return run


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.font
def test_pictures_are_drawn_judged_and_reported(evaluate, tmp_path):
    status, out, _ = evaluate("--out", "one", "--seed", "7")
    assert status == 0
    report = json.loads((tmp_path / "one" / "report.json").read_text())
    assert {s["category"] for s in report["scores"]} == {*map(str, categories()), "all"}
    assert [s["prompts"] for s in report["scores"] if s["category"] == "all"] == [9, 9, 9, 9]
    assert all(0 <= s["low"] <= s["score"] <= s["high"] <= 1 for s in report["scores"])
    assert report["record"]["seed"] == 7 and "model.safetensors (" in report["record"]["model"]
    assert (tmp_path / "one" / "report.md").read_text() == out
    grids = {p.stem for p in (tmp_path / "one" / "grids").iterdir()}
    assert grids == {category.replace(" ", "-") for category in categories()}
    drawn_with = read_settings(tmp_path / "one" / FOLDER / "00120.png")
    assert drawn_with["seed"] == 7 + 120
    assert drawn_with["prompt"] == items_of("evaluation")[120].prompt


def categories() -> set[str]:
    return {item.category for item in items_of("evaluation")[::EVERY]}


@pytest.mark.font
def test_a_run_that_died_goes_on_to_the_same_bytes(evaluate, tmp_path):
    """Whatever is missing: pictures in the middle of a group, verdicts, half a line of one."""
    assert evaluate("--out", "whole")[0] == 0
    whole = files(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "died")
    for name in ("00120.png", "00360.png", "00960.png"):
        (tmp_path / "died" / FOLDER / name).unlink()
    lines = (tmp_path / "died" / NAME).read_bytes().splitlines(keepends=True)
    (tmp_path / "died" / NAME).write_bytes(b"".join(lines[:4]) + lines[4][:20])
    for name in ("report.md", "report.json"):
        (tmp_path / "died" / name).unlink()
    assert evaluate("--out", "died")[0] == 0
    assert files(tmp_path / "died") == whole
    assert evaluate("--out", "died")[0] == 0
    assert files(tmp_path / "died") == whole


@pytest.mark.font
@pytest.mark.parametrize(
    ("words", "field"),
    [(["--seed", "1"], "seed=0"), (["--steps", "1"], "steps=None"), (["--count", "2"], "count=1")],
)
def test_two_evaluations_are_never_mixed(evaluate, tmp_path, words, field):
    assert evaluate("--out", "one")[0] == 0
    before = files(tmp_path / "one")
    status, _, err = evaluate("--out", "one", *words)
    assert status == 2 and f"holds an evaluation with {field}" in err
    assert files(tmp_path / "one") == before


@pytest.mark.font
def test_drawn_scenes_hit_and_others_miss(evaluate, tmp_path):
    """Pictures made elsewhere: the scenes themselves, and each prompt's with another's picture."""
    tasks = tasks_of(items_of("evaluation"), 0, 1, EVERY)
    pictures = drawn([task.item.asked for task in tasks])
    for name, order in (("right", pictures), ("wrong", pictures[1:] + pictures[:1])):
        (tmp_path / name).mkdir()
        for task, picture in zip(tasks, order, strict=True):
            Image.fromarray(picture).save(tmp_path / name / task.name(1))
        assert evaluate("--pictures", name, "--out", f"of-{name}", model=False)[0] == 0
    means = {name: scores(tmp_path / f"of-{name}")["all", "strict"] for name in ("right", "wrong")}
    assert means["right"] == 1 and means["wrong"] <= 0.25
    report = json.loads((tmp_path / "of-wrong" / "report.json").read_text())
    assert all(failure["seen"] for failure in report["failures"]) and report["failures"]
    sheet = np.asarray(Image.open(tmp_path / "of-wrong" / "grids" / "counting.png").convert("RGB"))
    assert (sheet == (220, 30, 30)).all(-1).any()  # framed

    status, out, _ = evaluate(
        "--pictures", "wrong", "--out", "of-wrong", "--against", "of-right", model=False
    )
    assert status == 0
    assert f"| all | strict | 9 | 1.000 | {means['wrong']:.3f} | {means['wrong'] - 1:+.3f} |" in out
    worse = round(9 * (1 - means["wrong"]))
    assert f"| 0 | {worse} |" in out.split("| all | strict |")[-1].splitlines()[0]


@pytest.mark.font
def test_a_picture_that_was_made_anew_is_judged_anew(evaluate, tmp_path):
    """And no other: the report tells of the pictures as they are, each judged once."""
    tasks = tasks_of(items_of("evaluation"), 0, 1, EVERY)
    pictures = [Image.fromarray(p) for p in drawn([task.item.asked for task in tasks])]
    paths = [tmp_path / task.name(1) for task in tasks]
    for path, picture in zip(paths, [pictures[1], *pictures[1:]], strict=True):
        picture.save(path)
    assert evaluate("--pictures", str(tmp_path), "--out", "one", model=False)[0] == 0
    assert scores(tmp_path / "one")["all", "strict"] == pytest.approx(8 / 9)
    pictures[0].save(paths[0])
    for _ in range(2):
        assert evaluate("--pictures", str(tmp_path), "--out", "one", model=False)[0] == 0
        assert scores(tmp_path / "one")["all", "strict"] == 1
    assert len((tmp_path / "one" / NAME).read_bytes().splitlines()) == 9 + 1


@pytest.mark.font
def test_verdicts_of_another_edition_of_the_judge_are_no_verdicts(evaluate, tmp_path):
    assert evaluate("--out", "one")[0] == 0
    file, report = tmp_path / "one" / NAME, (tmp_path / "one" / "report.md").read_text()
    file.write_text(file.read_text().replace('"edition": "2"', '"edition": "1"'))
    status, _, err = evaluate("--out", "two", "--against", "one")
    assert status == 2 and "one has no verdict by the judge stickers as it is now" in err
    file.write_text(file.read_text().replace('"strict": 0.0', '"strict": 1.0'))
    assert evaluate("--out", "one")[0] == 0
    assert (tmp_path / "one" / "report.md").read_text() == report


def test_a_size_that_cannot_be_judged_is_refused_before_it_is_drawn(evaluate, tmp_path):
    status, _, err = evaluate("--out", "one", "--size", "64x128")
    assert status == 2 and "64x128 are no stickers" in err and not (tmp_path / "one").exists()


def test_prompts_are_written_for_pictures_made_elsewhere(evaluate, tmp_path):
    status, out, _ = evaluate("--write", "prompts.txt", model=False)
    assert status == 0 and out == "9 prompts in prompts.txt\n"
    prompts = [item.prompt for item in items_of("evaluation")[::EVERY]]
    assert (tmp_path / "prompts.txt").read_text().splitlines() == prompts


@pytest.mark.font
def test_such_pictures_are_read_as_their_lines_are_numbered(evaluate, tmp_path):
    """As `lidit generate --prompts` numbers them, as well as by their places in the whole list."""
    tasks = tasks_of(items_of("evaluation"), 0, 1, EVERY)
    for folder in ("by-line", "by-place"):
        (tmp_path / folder).mkdir()
    for number, (task, pixels) in enumerate(zip(tasks, drawn([t.item.asked for t in tasks]))):
        Image.fromarray(pixels).save(tmp_path / "by-line" / f"{number:05d}.png")
        Image.fromarray(pixels).save(tmp_path / "by-place" / f"{task.index:05d}.png")
    for folder in ("by-line", "by-place"):
        assert evaluate("--pictures", folder, "--out", f"of-{folder}", model=False)[0] == 0
        assert scores(tmp_path / f"of-{folder}")["all", "strict"] == 1
    words = ["--pictures", "by-place", "--out", "again", "--against", "of-by-line"]
    status, out, _ = evaluate(*words, model=False)
    assert status == 0 and "| all | strict | 9 | 1.000 | 1.000 | +0.000 |" in out
    assert main(["blind", "of-by-line", "of-by-place", "--out", "blind.html"]) == 0
    (tmp_path / "by-line" / "00008.png").unlink()
    status, _, err = evaluate("--pictures", "by-line", "--out", "short", model=False)
    assert status == 2 and "by-line/00120.png cannot be read" in err


@pytest.mark.font
def test_pictures_with_emphasis_are_mixed_with_no_others(evaluate, tmp_path):
    """And the record of those without says nothing of it."""
    asked = {"tag": "counting", "include": [{"class": "cat", "count": 2}], "prompt": "(2:5) cats"}
    (tmp_path / "one.jsonl").write_text(json.dumps(asked) + "\n")
    words = ["--prompts", "geneval:one.jsonl", "--every", "1", "--count", "4"]
    assert evaluate(*words, "--out", "plain")[0] == 0
    assert evaluate(*words, "--out", "weighed", "--emphasis")[0] == 0
    records = [json.loads((tmp_path / out / "evaluation.json").read_text()) for out in OUTS]
    assert "emphasis" not in records[0] and records[1]["emphasis"] is True
    pictures = [tmp_path / out / FOLDER / "00000-00.png" for out in OUTS]
    assert read_settings(pictures[1])["emphasis"] is True
    plain, weighed = (np.asarray(Image.open(path)) for path in pictures)
    assert (plain != weighed).any()
    status, _, err = evaluate(*words, "--out", "plain", "--emphasis")
    assert status == 2 and "plain holds an evaluation with emphasis=None, and this one has T" in err


@pytest.mark.font
def test_pictures_made_elsewhere_have_no_seeds_and_are_compared_with_drawn_ones(evaluate, tmp_path):
    """In both directions; two drawn ones still need equal seeds."""
    assert evaluate("--out", "drawn", "--seed", "5")[0] == 0
    judged = ["--pictures", str(tmp_path / "drawn" / FOLDER), "--out", "judged"]
    assert evaluate(*judged, "--against", "drawn", model=False)[0] == 0
    assert "| all | strict | 9 |" in (tmp_path / "judged" / "against.md").read_text()
    report = json.loads((tmp_path / "judged" / "report.json").read_text())
    assert report["failures"] and all("seed" not in row for row in report["failures"])
    assert ", seed " not in (tmp_path / "judged" / "report.md").read_text()
    drawn = json.loads((tmp_path / "drawn" / "report.json").read_text())
    assert [row.pop("seed") for row in drawn["failures"]][:2] == [5, 5 + EVERY]
    assert drawn["failures"] == report["failures"]
    assert evaluate("--out", "drawn", "--seed", "5", "--against", "judged")[0] == 0
    status, _, err = evaluate("--out", "other", "--seed", "6", "--against", "drawn")
    assert status == 2 and "drawn has seed=5 and this evaluation has 6" in err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--seed", "0"], "--seed"),
        (["--cfg", "0"], "--cfg"),
        (["--steps", "3", "--size", "64x64"], "--steps, --size"),
        (["--adapter", "a", "--mode", "add"], "--adapter, --mode"),
        (["--bridge", "b"], "--bridge"),
        (["--llm", "x", "--lora", "y.safetensors"], "--llm, --lora"),
        (["--spread"], "--spread"),
        (["--cache", "c"], "--cache"),
    ],
)
@pytest.mark.parametrize("there", ["--pictures", "--write"])
def test_options_of_drawing_are_refused_where_nothing_is_drawn(evaluate, words, named, there):
    (Path("y.safetensors")).write_bytes(b"")
    status, _, err = evaluate(there, "some", "--out", "out", *words, model=False)
    assert status == 2 and err.count("\n") == 1
    assert f"{named} would say how pictures are drawn, and with {there} none are" in err
    assert not Path("out").exists()


def scores(folder: Path) -> dict[tuple[str, str], float]:
    found = json.loads((folder / "report.json").read_text())["scores"]
    return {(s["category"], s["measure"]): s["score"] for s in found}


@pytest.mark.font
def test_several_pictures_of_a_prompt_count_as_one_prompt(evaluate, tmp_path):
    assert evaluate("--out", "two", "--count", "2", "--steps", "1")[0] == 0
    report = json.loads((tmp_path / "two" / "report.json").read_text())
    assert report["scores"][-1]["prompts"] == 9 and report["scores"][-1]["pictures"] == 18
    seeds = [read_settings(tmp_path / "two" / FOLDER / f"00120-0{k}.png")["seed"] for k in (0, 1)]
    assert seeds == [240, 241]


def test_a_benchmarks_pictures_lie_as_its_own_evaluator_reads_them(evaluate, tmp_path):
    asked = {"tag": "counting", "include": [{"class": "cat", "count": 2}], "prompt": "two cats"}
    (tmp_path / "evaluation_metadata.jsonl").write_text(json.dumps(asked) + "\n")
    words = ["--prompts", "geneval:evaluation_metadata.jsonl", "--count", "4", "--judge", "none"]
    status, out, _ = evaluate(*words, "--out", "g")
    assert status == 0 and "Failures" not in out
    names = sorted(
        path.name for path in (tmp_path / "g" / "samples" / "00000" / "samples").iterdir()
    )
    assert names == ["0000.png", "0001.png", "0002.png", "0003.png"]


@pytest.mark.parametrize(
    ("words", "model", "sentence"),
    [
        ([], False, "expected either a model to draw with or --pictures DIR"),
        (["--pictures", "x"], True, "expected either a model to draw with or --pictures DIR"),
        (["--prompts", "haikus"], True, "there are no prompts 'haikus'; expected one of evaluat"),
        (["--prompts", "geneval:none.jsonl"], True, "none.jsonl cannot be read as GenEval's"),
        (["--judge", "oracle"], True, "there is no judge 'oracle'; expected stickers, none"),
        (["--judge", "detector:x"], True, "says nothing of objects"),
        (["--judge", "vqa:x"], True, "has no questions"),
        (["--every", "0"], True, "--every is 0; expected 1 or more"),
        (["--count", "0"], True, "--count is 0; expected 1 or more"),
        (["--against", "nowhere"], True, "nowhere holds no evaluation"),
        (["--against", "x", "--judge", "none"], True, "the judge none gives none; name one with"),
        (["--write", "x", "--count", "2"], False, "and --write writes each prompt once"),
        (["--emphasis", "--adapter", "x"], True, "with --adapter a U-Net draws; leave --emphasis"),
        (["--vae", "x"], True, "--vae x is a U-Net's, and a LI-DiT's autoencoder lies beside it"),
        (["--mode", "base"], True, "--mode base is an adapter's, and there is none"),
        (["--pictures", "none"], False, "none/00000.png cannot be read"),
        (
            ["--pictures", "none", "--prompts", "geneval:one.jsonl"],
            False,
            "none/00000.png cannot be read",
        ),
        (
            ["--prompts", "dpg-bench:prompts", "--count", "5"],
            True,
            "--count is 5, and DPG-Bench's evaluator reads 4 pictures of a prompt",
        ),
    ],
)
def test_mistakes_are_told_in_a_sentence(evaluate, tmp_path, words, model, sentence):
    asked = {"tag": "counting", "include": [{"class": "cat", "count": 2}], "prompt": "two cats"}
    (tmp_path / "one.jsonl").write_text(json.dumps(asked) + "\n")
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "0.txt").write_text("two cats\n")
    status, _, err = evaluate("--out", "out", *words, model=model)
    assert status == 2 and sentence in err and err.count("\n") == 1, err


@pytest.mark.font
@pytest.mark.llm
@pytest.mark.parametrize("words", [["stickers-sd", "--adapter", "stickers-adapter"], ["stickers"]])
def test_what_ships_is_evaluated(words, tmp_path, monkeypatch, capsys):
    """The adapter's three modes give three pictures; its record names both files."""
    if not available("SmolLM2-135M-Instruct"):
        pytest.skip("SmolLM2-135M-Instruct is not on this machine; get it with `lidit fetch`")
    monkeypatch.chdir(tmp_path)
    modes = ("add", "replace", "base") if len(words) > 1 else ("add",)
    for mode in modes:
        how = ["--mode", mode] if len(words) > 1 else []
        options = [*how, "--every", "1000", "--steps", "3", "--out", mode]
        assert main(["eval", *words, *options]) == 0
    pictures = {(tmp_path / mode / FOLDER / "00000.png").read_bytes() for mode in modes}
    assert len(pictures) == len(modes)
    record = json.loads((tmp_path / "add" / "report.json").read_text())["record"]
    assert record["model"].startswith(f"{words[0]} (")
    assert len(words) == 1 or record["adapter"].startswith("stickers-adapter (")


@pytest.mark.font
def test_a_checkpoint_that_is_not_there_is_told(evaluate, tmp_path):
    assert main(["eval", "nothing.safetensors", "--out", "out"]) == 2
    assert not (tmp_path / "out").exists()


def test_every_list_of_the_stickers_can_be_judged():
    assert {"evaluation", "paraphrases", "long", "chinese"} <= set(LISTS)
    for name in LISTS:
        items = items_of(name)
        assert items and all(item.prompt and item.category for item in items)
