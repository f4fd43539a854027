"""Where a picture looks. Run: pytest tests/core/cli/test_inspect.py"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image
from tiny_lidit import lidit_config, save_lidit_files
from tiny_llm import save_llm

from lidit_core.cli import main
from lidit_core.figures.drawing import HIGH, LOW, PAPER, HeatMap, _coloured
from lidit_core.inspection import look, read_prompt, refiner_attention, state_similarity
from lidit_core.pipeline import Order, Settings, load_pipeline

PROMPT = "two red cats"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    config = lidit_config("one", "two")
    config = replace(config, refiner=replace(config.refiner, registers=2))
    return save_lidit_files(folder, config), [f"{n}={save_llm(folder / n)}" for n in ("one", "two")]


@pytest.fixture(scope="module")
def pipeline(files):
    return load_pipeline(str(files[0]), files[1], device="cpu")


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_every_llms_words_share_the_attention_and_the_picture_stays(pipeline, guidance):
    settings = Settings(steps=2, guidance=guidance)
    seen = look(pipeline, Order(PROMPT, 3), settings)
    (plain,) = pipeline.pictures([Order(PROMPT, 3)], settings)
    assert (seen.picture.int() - plain.int()).abs().max() <= 1
    assert [word.word for word in seen.words] == PROMPT.split() * 2
    assert [word.llm for word in seen.words] == ["one"] * 3 + ["two"] * 3
    total = torch.stack([word.map for word in seen.words])
    assert total.shape[1:] == (2, 2) and (total > 0).all() and (total.sum(dim=0) < 1).all()


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_word_that_weighs_all_has_all_attention(pipeline, place, guidance):
    """So the map of a word is that of its own tokens, for every LLM, registers before them."""
    words = PROMPT.split()
    words[place] = f"({words[place]}:1e6)"
    settings = Settings(steps=1, guidance=guidance, emphasis=True)
    seen = look(pipeline, Order(" ".join(words), 3), settings)
    first, second = (torch.stack([w.map for w in seen.words[n : n + 3]]) for n in (0, 3))
    both = first + second
    assert (both[place] > 0.99).all()
    assert (both[[n for n in range(3) if n != place]] < 0.01).all()


def test_the_command_draws_a_cell_a_word_and_prints_the_shares(files, tmp_path, capsys):
    llms = [word for llm in files[1] for word in ("--llm", llm)]
    out = tmp_path / "words.png"
    words = ["inspect", "两 cats", "--model", str(files[0]), *llms, "--steps", "1"]
    assert main([*words, "--device", "cpu", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("cats") == 2 and printed.count("两") == 2 and "%" in printed
    with Image.open(out) as picture:
        assert picture.size == (5 * 32, 32 + 14)


@pytest.mark.parametrize(
    ("figure", "printed"),
    [
        ("refiner", "two: 1 register 1, 2 register 2, "),
        ("gates", "refiner 1, attention: "),
        ("similarity", "one: "),
    ],
)
def test_a_figure_of_the_refiners_is_drawn_and_told(
    files, tmp_path, capsys, monkeypatch, figure, printed
):
    monkeypatch.chdir(tmp_path)
    llms = [word for llm in files[1] for word in ("--llm", llm)]
    words = ["inspect", PROMPT, "--model", str(files[0]), *llms, "--device", "cpu"]
    assert main([*words, "--figure", figure]) == 0
    told = capsys.readouterr().out
    assert told.rstrip().endswith(f"{figure}.png") and printed in told
    with Image.open(tmp_path / f"{figure}.png") as picture:
        assert picture.width > 200 and PROMPT in str(picture.info)


def test_tokens_are_told_with_the_numbers_of_the_figure(pipeline):
    read = read_prompt(pipeline, PROMPT)
    for of, alike in zip(refiner_attention(read), state_similarity(read), strict=True):
        assert of.tokens[2:] == alike.tokens and of.tokens[0] == "register 1"
        assert "".join(alike.tokens) == PROMPT.replace(" ", "")
        assert of.full.shape == (len(of.tokens),) * 2


def test_heat_maps_show_the_largest_value_darkest_and_those_below_0_in_red():
    values = torch.tensor([[1.0, 0.25], [-1.0, 0.0]])
    plain, rooted = (_coloured(HeatMap("", values, ("", ""), root)) for root in (False, True))
    assert tuple(plain[0, 0]) == HIGH and tuple(plain[1, 0]) == LOW
    assert tuple(plain[1, 1]) == PAPER
    assert tuple(rooted[0, 1]) == tuple(round(255 + (c - 255) / 2) for c in HIGH)


@pytest.mark.parametrize(
    "words",
    [("--figure", "gates", "--time", "0.5"), ("--figure", "refiner", "--steps", "3")],
)
def test_an_option_without_use_for_a_figure_is_refused(files, capsys, words):
    assert main(["inspect", PROMPT, "--model", str(files[0]), *words]) == 2
    assert "says nothing to the figure" in capsys.readouterr().err
