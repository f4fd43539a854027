"""Prompts longer than the training, on the command line.

Run: pytest tests/core/cli/test_cli_lengths.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_lidit import lidit_config, save_lidit_files
from tiny_llm import save_llm

from lidit_core import pipeline
from lidit_core.checkpoints.lora import write_lora
from lidit_core.cli import main

AT_MOST, LONGER, OTHER = "a red cat", "a red cat and a dog", "a cat, a dog, a bird"
TOLD = "and these weights were trained on prompts of at most"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model that was trained on prompts of 3 tokens as AT_MOST, and one that does not know."""
    folder = tmp_path_factory.mktemp("tiny")
    save_llm(folder / "tiny-llm")
    config = lidit_config("tiny-llm")
    save_lidit_files(folder / "old", config)
    config = replace(config, llms=(replace(config.llms[0], longest_prompt=3),))
    save_lidit_files(folder / "known", config)
    return folder


@pytest.fixture
def draw(folder, tmp_path, monkeypatch, caplog):
    """Draws, and gives the notes on prompts that are too long."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIDIT_CACHE", str(tmp_path / "cache"))

    def run(*words: str, model: str = "known") -> list[str]:
        caplog.clear()
        given = ("--model", str(folder / model / "model.safetensors"))
        assert main(["generate", *given, "--llm", str(folder / "tiny-llm"), *words]) == 0
        return [text for r in caplog.records if TOLD in (text := r.getMessage())]

    return run


def test_each_prompt_is_told_once_on_stderr_and_drawn(folder, tmp_path):
    words = [LONGER, "--negative", OTHER, "--count", "9", "--out", "many"]
    words += ["--model", str(folder / "known" / "model.safetensors")]
    command = [sys.executable, "-m", "lidit_core", "generate", *words]
    command += ["--llm", str(folder / "tiny-llm")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert ran.returncode == 0, ran.stderr
    assert len(list((tmp_path / "many").iterdir())) == 9 > pipeline.BATCH
    told = [line.split(": ")[:2] for line in ran.stderr.splitlines() if TOLD in line]
    assert told == [["lidit", f"of the prompt {text!r}"] for text in (OTHER, LONGER)]
    assert TOLD not in ran.stdout


def test_a_prompt_as_long_as_the_training_is_not_told(draw):
    assert draw(AT_MOST, "--negative", "a cat") == []
    assert draw(LONGER, "--out", "old.png", model="old") == []
    assert draw(AT_MOST, "--negative", LONGER, "--cfg", "1") == []
    (told,) = draw(AT_MOST, "--negative", LONGER)
    assert told.startswith(f"of the prompt {LONGER!r}: ")


def test_a_lora_of_longer_prompts_lifts_the_bound(draw):
    pair = {"A": torch.full((2, 32), 0.05), "B": torch.full((128, 2), 0.5)}
    layers = {"blocks.0.mlp.0": pair}
    for name, longest in (("long", {"tiny-llm": 24}), ("short", {"tiny-llm": 1}), ("old", None)):
        write_lora(f"{name}.safetensors", layers, 2.0, lidit_config("tiny-llm"), longest=longest)
    for lora, told in {"long": 0, "short": 1, "old": 1, "long:0": 1, "long:-1": 1}.items():
        file = lora.replace(":", ".safetensors:") if ":" in lora else f"{lora}.safetensors"
        assert len(draw(LONGER, f"--lora={file}")) == told, lora


def test_encode_and_info_tell_how_long_the_training_was(folder, capsys):
    model = str(folder / "known" / "model.safetensors")
    for prompt, tokens in ((AT_MOST, 3), (LONGER, 8)):
        assert main(["encode", prompt, "--model", model, "--llm", str(folder / "tiny-llm")]) == 0
        told = capsys.readouterr().out
        assert f"{tokens} of the prompt's {tokens} are read" in told
        note = f"  note     {tokens} tokens are read by tiny-llm, {TOLD} 3;"
        assert (note in told) == (prompt == LONGER)
    main(["info", model])
    assert ", trained on prompts of at most 3\n" in capsys.readouterr().out
    main(["info", str(folder / "old" / "model.safetensors")])
    assert "trained on" not in capsys.readouterr().out
