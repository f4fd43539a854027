"""Weights of words on the command line. Run: pytest tests/core/cli/test_emphasis_option.py"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_lidit import lidit_config, save_lidit_files
from tiny_llm import save_llm

from lidit_core.cli import main
from lidit_core.io.pictures import read_settings
from lidit_core.model.prompt_text import read_encoded_prompts, stored_branch


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("model")
    model = save_lidit_files(folder, lidit_config("one"))
    llm = f"one={save_llm(folder / 'one')}"
    return ["--model", str(model), "--llm", llm, "--device", "cpu"]


@pytest.fixture(scope="module")
def draw(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("drawn") / "picture.png"

    def drawn(prompt: str, *words: str) -> np.ndarray:
        assert main(["generate", prompt, *model, "--out", str(out), *words]) == 0
        assert read_settings(out).get("emphasis", False) == ("--emphasis" in words)
        return np.asarray(Image.open(out)).astype(int)

    return drawn


def test_off_and_a_weight_of_1_are_the_same_and_another_is_not(draw):
    plain = draw("two cats and a dog")
    assert (draw("two cats and (a dog:1)", "--emphasis") == plain).all()
    assert (draw("two cats and a dog", "--emphasis") == plain).all()
    assert (draw("two cats and (a dog:8)", "--emphasis") != plain).any()
    assert (draw("two cats and (a dog:8)") != plain).any()  # as plain text
    weight = ("--negative", "(blue:3) red", "--cfg", "3")
    assert (draw("a dog", *weight, "--emphasis") != draw("a dog", *weight)).any()


def test_a_weight_below_0_is_one_line(draw, capsys):
    words = ["generate", "a (dog:-1)", "--emphasis", "--model", "stickers", "--device", "cpu"]
    assert main(words) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and "expected 0 (not read) to" in told[0]


def test_kept_states_have_the_weights_of_their_words(model, tmp_path, capsys):
    """As LI-DiT Text Encode and Save Conditioning write them; --next reads no marks."""
    kept = {}
    for name, marked in (("plain", "a cat and a dog"), ("weighted", "a cat and (a dog:1.5)")):
        out = tmp_path / f"{name}.safetensors"
        words = ["--next", "1", "--emphasis", "--out", str(out)]
        assert main(["encode", marked, *model, *words]) == 0
        ((_, values),) = read_encoded_prompts(out).prompts[0].entries
        kept[name] = stored_branch(values, "0").states
    plain, weighted = kept["plain"], kept["weighted"]
    assert torch.equal(plain.hidden, weighted.hidden) and plain.emphasis is None
    assert set(weighted.emphasis.unique().tolist()) == {1.0, 1.5}
    assert "is read as plain text" not in capsys.readouterr().out


def test_a_weight_over_the_whole_prompt_is_told(draw, caplog):
    draw("(a dog:1.4)", "--emphasis")
    assert "the weight 1.4 over the whole prompt has no effect" in caplog.text
