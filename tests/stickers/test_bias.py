"""`lidit bias` from its lists to its report. Run: pytest tests/stickers/test_bias.py"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from tiny_lidit import lidit_config, save_lidit_files
from tiny_llm import save_llm

from lidit_core.cli import main
from lidit_eval.items import items_of, tasks_of
from lidit_eval.judges.judge import Verdict
from lidit_eval.report import Judged
from lidit_stickers import many_facts
from lidit_stickers.bias import measuring
from lidit_stickers.bias.figures import apart, biases, by_place, curves
from lidit_stickers.bias.measuring import NOISES, BiasMeasurements, read_all
from lidit_stickers.scorer.scorer import TESTED
from lidit_stickers.scorer.selftest import drawn

EVERY = 90


def test_pairs_are_the_same_requests_in_both_orders():
    forward, turned = many_facts.pair_prompts(), many_facts.reversed_pair_prompts()
    assert [c.request for c in forward] == [c.request for c in turned]
    assert len({c.text for c in (*forward, *turned)}) == 720
    for one, other in zip(forward, turned, strict=True):
        things = re.split(r", | and ", one.text)
        assert re.split(r", | and ", other.text) == things[::-1]
        assert len({item.colour for item in one.request.items}) == len(things)
        assert all(thing.startswith(("a ", "an orange ")) for thing in things)
    counts = [len(c.request.items) for c in forward]
    assert [counts.count(n) for n in (2, 3, 4)] == [120, 120, 120]
    assert not {c.category for c in (*forward, *many_facts.early_prompts())} & {*TESTED}


@pytest.mark.font
@pytest.mark.parametrize("which", ["early", "late", "pairs", "pairs-reversed"])
def test_what_is_drawn_as_asked_holds_and_a_wrong_colour_fails_at_its_place(which, tmp_path):
    """Drawn scenes in the models' place; in one the last thing that the words name is missing."""
    items = items_of(which)
    tasks = tasks_of(items, 0, NOISES, EVERY)
    captions = [task.item.asked for task in tasks]
    pictures = drawn(captions)
    broken = len(tasks) - NOISES  # of the last request
    pictures[broken] = np.full_like(pictures[broken], pictures[broken][0, 0])
    judged = []
    for task, picture in zip(tasks, pictures, strict=True):
        path = tmp_path / task.name(NOISES)
        Image.fromarray(picture).save(path)
        judged.append(Judged(task, path, Verdict({})))
    held = read_all(judged, which == "pairs-reversed")
    assert held.shape == (len(tasks) // NOISES, NOISES, 4 if "pairs" in which else 2)
    numbers = [2 if "pairs" not in which else len(c.request.items) for c in captions[::NOISES]]
    assert ((~np.isnan(held)).sum(axis=2).T == numbers).all()
    assert np.nanmean(held[:-1]) >= 0.99
    assert np.nansum(held[-1, 0]) == 0 and np.nanmin(held[-1, 1]) == 1


@pytest.mark.font
def test_places_are_those_of_the_words(tmp_path):
    """A picture with the first item alone: right at the first place, or, turned, at the last."""
    for which, place in (("pairs", 0), ("pairs-reversed", 1)):
        (task, again) = tasks_of(items_of(which), 0, NOISES)[:2]
        item = task.item.asked.request.items[0]
        alone = many_facts.SceneRequest((item,), None, "white")
        (picture,) = drawn([many_facts.Caption("", "en", alone, "")])
        Image.fromarray(picture).save(tmp_path / "one.png")
        held = read_all([Judged(t, tmp_path / "one.png", Verdict({})) for t in (task, again)],
                        which == "pairs-reversed")  # fmt: skip
        assert held[0, 0, place] == 1 and held[0, 0, 1 - place] == 0


def simulated(
    late: float, places: tuple[float, ...], seed: int = 0, easy: float = 0.0
) -> BiasMeasurements:
    """A model that loses so much of what is late; ``easy``: what is listed first is simpler."""
    g = np.random.default_rng(seed)
    early = (g.random((400, NOISES, 2)) < 0.8).astype(float)
    lost = (g.random((400, NOISES, 2)) < 0.8 - late).astype(float)
    errors = g.normal(0.3, 0.05, (400, 1)) + [0.0, late / 10] + g.normal(0, 0.005, (400, 2))
    pairs, turned = (np.full((300, NOISES, 4), np.nan) for _ in range(2))
    simple = np.where(np.arange(3) == 0, easy, 0.0)
    for held, kinds in ((pairs, simple), (turned, simple[::-1])):
        held[..., :3] = g.random((300, NOISES, 3)) < np.array(places) + kinds
    return BiasMeasurements(early, lost, errors, pairs, turned)


def test_a_bias_is_found_and_one_that_is_not_there_is_not():
    fair, biased = simulated(0.0, (0.6, 0.6, 0.6), 1), simulated(0.2, (0.8, 0.6, 0.4), 2)
    found = biases({"fair": [fair], "biased": [biased]})
    assert not found["fair"].score.clear and not found["fair"].first_last.clear
    for figure, true in (("score", 0.2), ("error", 0.02), ("first_last", 0.4)):
        got = getattr(found["biased"], figure)
        assert got.low < true < got.high and got.clear
    (between,) = apart({"biased": [biased], "fair": [fair]})
    assert between.score.mean == pytest.approx(
        found["biased"].score.mean - found["fair"].score.mean
    )
    assert between.score.low < 0.2 < between.score.high and between.score.clear


def test_the_reversed_order_takes_out_what_is_easy_about_a_kind():
    """All places are alike, and the thing listed first is much simpler: no place is better."""
    (points,) = [by_place([simulated(0.0, (0.5, 0.5, 0.5), 3, easy=0.4)], 3)]
    assert abs(points[0].mean - points[2].mean) < 0.06
    first = simulated(0.0, (0.5, 0.5, 0.5), 3, easy=0.4).pairs
    assert np.nanmean(first[..., 0]) - np.nanmean(first[..., 2]) > 0.3  # without the control
    assert by_place([simulated(0.0, (0.5, 0.5, 0.5))], 4) == []


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_llm(folder / "tiny-llm")
    save_lidit_files(folder, lidit_config("tiny-llm", native_size=64, steps=2))
    return folder


@pytest.mark.font
def test_the_command_draws_reports_and_goes_on(models, tmp_path, capsys, monkeypatch):
    """As the documents have it, killed before the errors are kept; the same bytes again."""
    monkeypatch.chdir(tmp_path)
    model = str(models / "model.safetensors")
    words = ["bias", "--model", f"none={model}", "--model", f"full={model}", "--out", "bias"]
    words += ["--every", "240", "--llm", f"tiny-llm={models / 'tiny-llm'}", "--device", "cpu"]
    with monkeypatch.context() as broken:
        broken.setattr(measuring, "_errors", None)
        with pytest.raises(TypeError):
            main(words)
    pictures = {p: p.stat().st_mtime_ns for p in Path("bias").glob("*/pictures/*")}
    assert main(words) == 0
    assert {p: p.stat().st_mtime_ns for p in pictures} == pictures
    told = capsys.readouterr().out
    assert told == Path("bias/bias.md").read_text() and "| none | full |" in told
    plain = json.loads(Path("bias/bias.json").read_text())
    assert plain["differences"][0]["score"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    before = {p: p.read_bytes() for p in Path("bias").glob("bias.*")}
    assert main(words) == 0
    assert {p: p.read_bytes() for p in before} == before
    for path in Path("bias").glob("*/pictures"):
        shutil.rmtree(path)
    (models / "model.safetensors").rename(models / "away.safetensors")
    try:  # what is left is enough
        assert main(words) == 0
        assert {p: p.read_bytes() for p in before} == before
        options = measuring.BiasOptions(Path("bias"), 240, (), "cpu")
        monkeypatch.setenv("HOME", str(models))  # a file at home is one that is there
        assert not measuring.is_left_alone("none-0", "~/away.safetensors", options)
        assert not measuring.is_left_alone("none-0", "stickers", options)
        capsys.readouterr()
        assert main([*words[:-4], "--every", "120", *words[-2:]]) == 2
        assert "figures of every=240, expected 120, and there is no" in capsys.readouterr().err
        Path("bias/none-0-late/held.npy").unlink()
        assert main(words) == 2
        assert "model.safetensors" in capsys.readouterr().err
    finally:
        (models / "away.safetensors").rename(models / "model.safetensors")
    drawing = ElementTree.fromstring(Path("bias/bias.svg").read_text())
    assert len(drawing.findall("{*}polyline")) == 2 * 2  # of two and of four pairs


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model", "a b=x"], "is called 'a b'; expected letters"),
        (["--model", "x", "--every", "0"], "--every is 0"),
        (
            ["--model", "a/final.safetensors", "--model", "b/final.safetensors"],
            "both called 'final'",
        ),
        (["--model", "stickers", "--llm", "y"], "expected NAME=SOURCE, NAME one of SmolLM2-135M"),
        (["--model", "stickers", "--llm", "gemma-3-270m=y"], "is of no LLM that is read here"),
    ],
)
def test_a_mistake_is_one_sentence(words, told, capsys, tmp_path):
    assert main(["bias", "--out", str(tmp_path / "out"), *words]) == 2
    assert told in capsys.readouterr().err


def test_where_an_llm_is_changes_none_that_reads():
    """Each model reads by all of its own, as without the option."""
    gemma, smollm2 = "gemma-3-270m=there", "SmolLM2-135M-Instruct=here"
    own = "SmolLM2-135M-Instruct=SmolLM2-135M-Instruct"
    assert measuring._llms_of("stickers", [gemma, smollm2]) == [smollm2]
    assert measuring._llms_of("stickers-duo", [gemma]) == [own, gemma]
    assert measuring._llms_of("stickers-duo", []) == measuring._llms_of("stickers", [gemma]) == []


def test_a_curve_has_a_line_for_every_number_of_pairs():
    found = curves({"one": [simulated(0.0, (0.9, 0.5, 0.5))]})
    assert [len(points) for points in found["one"].values()] == [0, 3, 0]
