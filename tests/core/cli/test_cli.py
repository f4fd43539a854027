"""The command line, with a real tiny LLM and checkpoint. Run: pytest tests/core/cli/test_cli.py"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_lidit import lidit_config, save_lidit_files
from tiny_llm import save_llm

from lidit_core import pipeline
from lidit_core.checkpoints.lora import write_lora
from lidit_core.cli import main
from lidit_core.cli.generate import lora_of
from lidit_core.io.pictures import read_settings
from lidit_core.model.config import RefinerConfig
from lidit_core.model.prompt_text import read_encoded_prompts, stored_branch
from lidit_core.text import prompt_encoder
from lidit_core.text.cache import MEMORY

PROMPTS = ("a cat", "a cat to the left of a dog, and three red apples below", "", "猫 🍎")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    save_llm(folder / "tiny-llm")
    save_llm(folder / "other-llm", "Qwen2")
    save_llm(folder / "wide-llm", hidden_size=48)
    save_lidit_files(folder, lidit_config("tiny-llm"))
    save_lidit_files(folder / "duo", lidit_config("tiny-llm", "other-llm"))
    return folder


@pytest.fixture
def lidit(folder, tmp_path, monkeypatch, capsys):
    """Runs a command in an empty folder: (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIDIT_CACHE", str(tmp_path / "cache"))

    def run(*words: str) -> tuple[int, str, str]:
        status = main(list(words))
        told = capsys.readouterr()
        return status, told.out, told.err

    return run


@pytest.fixture
def draw(folder, lidit):
    """Runs `generate` with the tiny model and returns nothing but success."""

    def run(*words: str, model: str = "model.safetensors") -> None:
        llm = ["--llm", str(folder / "tiny-llm")]
        status, _, error = lidit("generate", "--model", str(folder / model), *llm, *words)
        assert status == 0, error

    return run


def pixels(path: str) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def test_one_prompt_gives_one_picture_that_carries_its_settings(draw):
    draw("a cat, 猫", "--seed", "5", "--negative", "a dog")
    assert pixels("picture.png").shape == (32, 32, 3)
    settings = read_settings("picture.png")
    assert settings["prompt"] == "a cat, 猫" and settings["negative"] == "a dog"
    assert (settings["seed"], settings["steps"], settings["cfg"]) == (5, 3, 2.0)
    assert settings["llms"] == ["tiny-llm"] and settings["model"] == "model.safetensors"
    assert Image.open("picture.png").info["Description"] == "a cat, 猫"


def test_the_same_command_gives_the_same_bytes_cached_or_not(draw):
    draw("a cat", "--out", "first.png")
    draw("a cat", "--out", "cached.png")
    MEMORY.clear()
    draw("a cat", "--out", "fresh.png")
    first = Path("first.png").read_bytes()
    assert first == Path("cached.png").read_bytes() == Path("fresh.png").read_bytes()


def test_a_picture_does_not_depend_on_its_company(draw, monkeypatch):
    monkeypatch.setattr(pipeline, "BATCH", 3)
    Path("prompts.txt").write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    draw("--prompts", "prompts.txt", "--count", "2", "--seed", "7", "--out", "list")
    assert sorted(p.name for p in Path("list").iterdir()) == [f"{i:05}.png" for i in range(8)]
    for number in (2, 4, 7):  # the last of a batch, one within, and one of a short batch
        MEMORY.clear()
        prompt, seed = PROMPTS[number // 2], str(7 + number)
        draw(prompt, "--seed", seed, "--out", "alone.png")
        together = pixels(f"list/{number:05}.png")
        assert read_settings("alone.png") == read_settings(f"list/{number:05}.png")
        assert abs(pixels("alone.png") - together).max() <= 1, (number, prompt)


def test_prompt_seed_guidance_and_negative_change_the_picture(draw):
    draw("a cat", "--out", "base.png")
    changes = {
        "prompt": ("a dog",),
        "seed": ("a cat", "--seed", "1"),
        "cfg": ("a cat", "--cfg", "5"),
        "negative": ("a cat", "--negative", "three red apples"),
        "steps": ("a cat", "--steps", "5"),
    }
    for name, words in changes.items():
        draw(*words, "--out", f"{name}.png")
        assert abs(pixels(f"{name}.png") - pixels("base.png")).max() > 1, name


def test_guidance_1_leaves_the_negative_prompt_out(draw, caplog):
    draw("a cat", "--cfg", "1", "--out", "a.png")
    draw("a cat", "--cfg", "1", "--negative", "a BREAK dog", "--out", "b.png")
    assert (pixels("a.png") == pixels("b.png")).all()
    assert "BREAK" not in caplog.text  # not even encoded
    draw("a cat", "--cfg", "2", "--negative", "a BREAK dog", "--out", "c.png")
    assert "BREAK" in caplog.text


@pytest.mark.parametrize("words, kept_in", [(("--cache", "kept"), "kept"),
                                            (("--cache",), "cache/states")])  # fmt: skip
def test_states_are_kept_on_disk_when_asked(words, kept_in, draw, monkeypatch):
    draw("a cat", *words, "--out", "first.png")
    assert len(list(Path(kept_in).rglob("*.safetensors"))) == 2  # the prompt and the empty one
    MEMORY.clear()
    monkeypatch.setattr(prompt_encoder, "load_llm", lambda *args: pytest.fail("loaded the LLM"))
    draw("a cat", *words, "--out", "again.png")
    assert Path("first.png").read_bytes() == Path("again.png").read_bytes()


def test_loras_are_added_at_their_strengths(folder, draw, lidit):
    config = lidit_config("tiny-llm")
    pair = {"A": torch.full((2, 32), 0.05), "B": torch.full((128, 2), 0.5)}
    write_lora("style.safetensors", {"blocks.0.mlp.0": pair}, 2.0, config)
    words = {"base": (), "none": ("style.safetensors:0",), "half": ("style.safetensors:0.5",) * 2,
             "one": ("style.safetensors",)}  # fmt: skip
    for name, loras in words.items():
        draw("a cat", *(f"--lora={lora}" for lora in loras), "--out", f"{name}.png")
    assert (pixels("none.png") == pixels("base.png")).all()
    assert abs(pixels("one.png") - pixels("base.png")).max() > 1
    assert abs(pixels("one.png") - pixels("half.png")).max() <= 1
    assert read_settings("half.png")["loras"] == [["style.safetensors", 0.5]] * 2
    model, llm = str(folder / "model.safetensors"), str(folder / "tiny-llm")
    words = ("generate", "a cat", "--model", model, "--llm", llm, "--lora", model)
    status, _, error = lidit(*words)
    assert status == 2 and "no LoRA of a LI-DiT" in error


@pytest.mark.parametrize("text, meant", [("a.safetensors", ("a.safetensors", 1.0)),
                                         ("a.safetensors:-0.5", ("a.safetensors", -0.5)),
                                         (r"C:\a.safetensors", (r"C:\a.safetensors", 1.0)),
                                         (r"C:\a.safetensors:2", (r"C:\a.safetensors", 2.0)),
                                         ])  # fmt: skip
def test_a_lora_is_a_file_with_or_without_a_strength(text, meant):
    assert lora_of(text) == meant


@pytest.mark.parametrize("text", [":0.5", "a.safetensors:nan"])
def test_a_lora_that_is_none_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="write FILE, or FILE:0.8"):
        lora_of(text)


def test_sizes_are_width_by_height_in_whole_tokens(folder, draw, lidit, caplog):
    draw("a cat", "--size", "48x32", "--out", "wide.png")
    assert pixels("wide.png").shape == (32, 48, 3)
    assert "far from" not in caplog.text
    draw("a cat", "--size", "96", "--out", "large.png")
    assert "size 96x96 is far from 32" in caplog.text
    llm = str(folder / "tiny-llm")
    words = ("a cat", "--model", str(folder / "model.safetensors"), "--llm", llm)
    status, _, error = lidit("generate", *words, "--size", "40x32")
    assert status == 2 and "multiples of 16, for example 32x32" in error


def test_a_long_prompt_is_cut_and_the_user_is_told(draw, caplog):
    draw("a cat and a dog and " * 20)
    assert "tokens are read" in caplog.text


def test_two_llms_work_together_or_alone(folder, draw, lidit):
    duo = str(folder / "duo/model.safetensors")
    other = ["--llm", f"other-llm={folder / 'other-llm'}"]
    draw("a cat", "--out", "one.png", model="duo/model.safetensors")
    draw("a cat", *other, "--out", "both.png", model="duo/model.safetensors")
    assert read_settings("both.png")["llms"] == ["tiny-llm", "other-llm"]
    assert abs(pixels("one.png") - pixels("both.png")).max() > 1
    status, _, error = lidit("generate", "x", "--model", duo, "--llm", str(folder / "wide-llm"))
    assert status == 2 and "none of tiny-llm, other-llm" in error
    twice = ("--llm", str(folder / "tiny-llm"), "--llm", f"tiny-llm={folder / 'other-llm'}")
    status, _, error = lidit("generate", "x", "--model", duo, *twice)
    assert status == 2 and "two LLMs are given for tiny-llm" in error
    status, _, error = lidit("generate", "x", "--model", duo, "--llm", "Tiny=some/folder")
    assert status == 2 and "is for 'Tiny', and this LI-DiT was trained on tiny-llm, oth" in error


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "either a prompt or --prompts"),
        (("a cat", "--prompts", "prompts.txt"), "either a prompt or --prompts"),
        (("--prompts", "nowhere.txt"), "nowhere.txt cannot be read"),
        (("a cat", "--count", "0"), "--count is 0"),
        (("a cat", "--count", "2", "--out", "one.png"), "one file for 2 pictures"),
        (("a cat", "--out", "x.jpg"), "pictures are PNGs; name it x.png"),
        (("a cat", "--steps", "0"), "0 steps"),
        (("a cat", "--seed", "-1"), "seed -1 is out of range"),
        (("a cat", "--device", "abacus"), "device 'abacus' cannot be used"),
        (("a cat", "--model", "nowhere.safetensors"), "no file nowhere.safetensors"),
        (("a cat", "--llm", "someone/a-model"), "hub:"),
    ],
)
def test_a_mistake_is_one_sentence(folder, lidit, words, expected):
    model = () if "--model" in words else ("--model", str(folder / "model.safetensors"))
    status, _, error = lidit("generate", *model, *words)
    assert status == 2
    assert error.startswith("lidit: ") and error.count("\n") == 1
    assert expected in error


def test_an_llm_of_the_wrong_width_is_named_and_not_loaded(folder, lidit, monkeypatch):
    monkeypatch.setattr(prompt_encoder, "load_llm", lambda *args: pytest.fail("loaded the LLM"))
    words = ("a cat", "--model", str(folder / "model.safetensors"))
    status, _, error = lidit("generate", *words, "--llm", str(folder / "wide-llm"))
    assert status == 2 and "48 wide" in error and "tiny-llm (32 wide)" in error


def test_a_place_that_cannot_be_written_is_one_line(folder, draw, lidit):
    Path("taken").write_text("a file")
    llm = str(folder / "tiny-llm")
    words = ("a cat", "--model", str(folder / "model.safetensors"), "--llm", llm)
    status, _, error = lidit("generate", *words, "--out", "taken/x.png")
    assert status == 2 and error.count("\n") == 1 and "taken" in error


def test_a_missing_demo_llm_gives_the_line_to_paste(tmp_path, lidit):
    path = save_lidit_files(tmp_path, lidit_config("SmolLM2-135M-Instruct"))
    status, _, error = lidit("generate", "a cat", "--model", str(path))
    assert status == 2 and error.rstrip().endswith("fetch.py smollm2") and sys.executable in error


def test_a_truncated_checkpoint_is_named(folder, lidit, tmp_path):
    whole = (folder / "model.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    status, _, error = lidit("generate", "a cat", "--model", "cut.safetensors")
    assert status == 2 and "cut.safetensors is no whole safetensors file" in error


def test_a_checkpoint_without_its_autoencoder_is_named(folder, lidit, tmp_path):
    (tmp_path / "lone.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    llm = str(folder / "tiny-llm")
    status, _, error = lidit("generate", "a cat", "--model", "lone.safetensors", "--llm", llm)
    assert status == 2 and "no tiny-vae.safetensors beside" in error


def test_info_tells_of_a_checkpoint_a_preset_and_a_picture(folder, draw, lidit):
    _, told, _ = lidit("info", str(folder / "model.safetensors"))
    assert "tiny-llm: 32 wide" in told and "3 steps, guidance 2" in told
    _, told, _ = lidit("info", "LI-DiT-10B")
    assert "48 of width 2816 with 44 heads" in told
    draw("a cat")
    _, told, _ = lidit("info", "picture.png")
    assert '"prompt": "a cat"' in told
    _, told, _ = lidit("info", "stickers")
    assert told.count("https://ai.google.dev/gemma/terms") == 1
    status, _, error = lidit("info", "LI-DiT-2B")
    assert status == 2 and "LI-DiT-1B, LI-DiT-10B" in error
    status, _, error = lidit("info", "missing.safetensors")
    assert status == 2 and "no file missing.safetensors; give the path" in error


@pytest.mark.parametrize(
    "changes, block, told",
    [
        ({}, -3, ["full attention, gated\n"]),
        ({"gated": False}, -3, ["not gated\n"]),
        ({"gates": "none"}, -3, ["full attention, gates that do not read the time\n"]),
        ({"registers": 3}, -3, ["3 before each LLM's tokens, kept as keys\n"]),
        ({"registers": 1, "registers_kept": False}, -3, ["left out after both refiners\n"]),
        ({"mix": "routed"}, (1, -2), ["mixed by routed\n", "block 1,-2"]),
        ({"mix": "linear"}, (1, 2, 3), ["mixed by linear\n"]),
    ],
)
def test_info_tells_what_the_text_side_is(lidit, tmp_path, changes, block, told):
    config = lidit_config("tiny-llm", refiner=RefinerConfig(**changes))
    config = replace(config, llms=(replace(config.llms[0], block=block),))
    save_lidit_files(tmp_path, config)
    _, found, _ = lidit("info", str(tmp_path / "model.safetensors"))
    assert all(each in found for each in told)
    plain = "registers" not in changes and "mix" not in changes
    assert plain == ("  registers" not in found and "  layers" not in found)


def test_encode_tells_how_a_prompt_is_read_and_keeps_its_states(folder, lidit):
    model = ("--model", str(folder / "model.safetensors"), "--llm", str(folder / "tiny-llm"))
    status, told, _ = lidit("encode", "a (red:1.3) cat", *model, "--out", "states.safetensors")
    assert status == 0
    assert "tiny-llm" in told and "plain text" in told
    (kept,) = read_encoded_prompts("states.safetensors").prompts
    ((hidden, values),) = kept.entries
    branch = stored_branch(values, "0")
    roles = branch.states.roles
    assert kept.text == "a (red:1.3) cat" and branch.llm == "tiny-llm" and branch.used == 11
    assert hidden.shape == (*roles.shape, 32) and roles.dtype == torch.int32
    assert torch.equal(hidden, branch.states.hidden) and roles.unique().tolist() == [1, 2]
    status, _, error = lidit(
        "encode", "a (red:1.3) cat", *model, "--spread", "--out", "s.safetensors"
    )
    assert status == 0, error
    ((again, _),) = read_encoded_prompts("s.safetensors").prompts[0].entries
    assert torch.equal(again, hidden)
    _, told, _ = lidit("encode", "", *model)
    assert "0 of the prompt's 0 are read" in told and "the prompt is empty" in told


@pytest.mark.parametrize("encoding", ["utf-8", "cp437"])
def test_every_verb_teaches(encoding):
    """To a terminal or a file of any encoding."""
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    for verb in ("generate", "info", "fetch", "encode"):
        command = [sys.executable, "-m", "lidit_core", verb, "--help"]
        shown = subprocess.run(
            command,
            capture_output=True,
            encoding=encoding,
            cwd=Path(__file__).parents[3],
            env=environment,
        )
        assert shown.returncode == 0 and "examples:" in shown.stdout
