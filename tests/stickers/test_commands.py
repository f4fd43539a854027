"""The sticker commands, small, and their mistakes. Run: pytest tests/stickers/test_commands.py"""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image

from lidit_core.checkpoints.lidit import load_vae
from lidit_core.errors import LiDiTError
from lidit_core.io.prompts import read_prompts
from lidit_core.io.tensors import read_safetensors
from lidit_core.llm.locate import available
from lidit_core.paths import SHIPPED_WEIGHTS
from lidit_core.pipeline import Pipeline
from lidit_eval.command import evaluate
from lidit_eval.report import by_prompt
from lidit_stickers.making import trigger
from lidit_stickers.scenes.grammar import captions
from lidit_stickers.scenes.scenes import place, render
from lidit_stickers.scorer import selftest
from lidit_stickers.scorer.damage import reconstruct
from lidit_stickers.sharpness import unseen_scenes
from lidit_stickers.token_places import known_columns

SHIPPED_VAE = SHIPPED_WEIGHTS / "stickers-vae.safetensors"
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            "making.train_autoencoder recipes/autoencoder/stickers.yaml --out {folder} "
            "--set start=lidit_core/weights/stickers-vae.safetensors",
            "no training state",
        ),
        ("sharpness --vae nowhere.safetensors", "no file nowhere.safetensors"),
        ("ceiling --out {folder} --vae nowhere.safetensors", "no file nowhere.safetensors"),
        ("score --pictures {folder}", "00000.png cannot be read"),
    ],
)
@pytest.mark.font
def test_a_mistake_is_one_sentence(words, expected, tmp_path):
    (tmp_path / "state.pt").write_bytes(b"half")
    name, *options = words.format(folder=tmp_path).split()
    command = [sys.executable, "-m", f"lidit_stickers.{name}", *options]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"{name.split('.')[-1]}: ") and ended.stderr.count("\n") == 1
    assert expected in ended.stderr


NUMBERS = [
    (lambda: unseen_scenes(0), "--count is 0; expected 1 or more"),
    (lambda: selftest.main(["--every", "0"]), "--every is 0; expected 1 or more"),
    (lambda: render(place(captions(1, 1)[0].request, np.random.default_rng(0)), 0), "of 0 pixels"),
    (
        lambda: reconstruct(load_vae(SHIPPED_VAE), np.zeros((100, 100, 3), np.uint8)),
        "a picture of 100 pixels goes through no autoencoder; expected a multiple of 8",
    ),
    (lambda: known_columns(cast(Pipeline, None), 3, [0.9, 5.0]), "the time 5.0 is out of range"),
]


@pytest.mark.parametrize(("call", "told"), NUMBERS)
def test_a_number_out_of_its_range_is_one_sentence(call, told):
    with pytest.raises(LiDiTError, match=re.escape(told)):
        call()


@pytest.mark.long
@pytest.mark.font
@pytest.mark.llm
def test_a_decoder_learns_from_what_a_model_gives_back(tmp_path):
    """The latents that `restore` writes are those of the drawings beside them, nearly."""
    if not available("SmolLM2-135M-Instruct"):
        pytest.skip("SmolLM2-135M-Instruct is not on this machine; get it with `lidit fetch`")
    file = tmp_path / "restored.safetensors"
    _run(f"making.restore stickers --captions 1 --time 0.02 --out {file}")
    tensors, _ = read_safetensors(file)
    vae = load_vae(SHIPPED_VAE)
    drawings = tensors["drawings"].permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        error = (vae.encode(drawings) - tensors["latents"].float()).std()
    assert 0 < error < 0.15  # latents have a deviation of 0.5
    options = f"--set restored={file} --set restored_share=1 --set steps=1 --set wide_every=0"
    recipe = f"recipes/autoencoder/stickers.yaml --set start={SHIPPED_VAE}"
    _run(f"making.train_autoencoder {recipe} {options} --out {tmp_path}")
    load_vae(tmp_path / "final.safetensors")


@pytest.mark.long
@pytest.mark.font
def test_the_recipe_for_a_gpu_goes_on_from_the_decoder_that_ships(tmp_path):
    options = "--device cpu --set batch=2 --set workers=1 --set steps=2 --set warmup=0"
    recipe = f"recipes/autoencoder/stickers-gpu.yaml --set start={SHIPPED_VAE}"
    _run(f"making.train_autoencoder {recipe} {options} --out {tmp_path}")
    load_vae(tmp_path / "final.safetensors")


def test_captions_are_written_for_a_recording(tmp_path):
    _run(f"training_captions {tmp_path / 'few.txt'} --count 20")
    _run(f"training_captions {tmp_path / 'both.txt'} --count 5 --language mixed")
    few, both = (read_prompts(tmp_path / f"{name}.txt") for name in ("few", "both"))
    assert few == [caption.text for caption in captions(20, seed=1)]
    assert len(both) == 5 and any(re.search("[\u4e00-\u9fff]", text) for text in both)


@pytest.mark.font
def test_an_autoencoders_sharpness_is_told_and_shown(tmp_path):
    command = [sys.executable, "-m", "lidit_stickers.sharpness", "--count", "3", "--size", "64"]
    words = ["--strip", str(tmp_path / "strip.png")]
    told = subprocess.run([*command, *words], cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.search(r"\d\.\d", told.stdout)
    with Image.open(tmp_path / "strip.png") as strip:
        assert strip.size == (3 * 64, 2 * 64)


@pytest.mark.long
@pytest.mark.font
def test_the_ceiling_is_every_prompt_as_the_autoencoder_gives_it_back(tmp_path):
    """And the pictures are what `lidit eval --pictures` judges, nearly all of them right."""
    _run(f"ceiling --out {tmp_path / 'drawn'} --prompts newcomer")
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 60
    found = evaluate("--pictures", str(tmp_path / "drawn"), "--prompts", "newcomer", "--every", "6",
                     "--out", str(tmp_path / "out"))  # fmt: skip
    assert len(found) == 10 and sum(by_prompt(found, "nearest").values()) >= 9


@pytest.mark.font
@pytest.mark.llm
def test_a_trigger_word_is_measured_beside_an_adapter(monkeypatch, capsys):
    """Its smallest form: a step on four scenes, and two prompts."""
    pytest.importorskip("diffusers")
    if not available("SmolLM2-135M-Instruct"):
        pytest.skip("SmolLM2-135M-Instruct is not on this machine; get it with `lidit fetch`")
    for name, value in {"SCENES": 4, "STEPS": 1, "BATCH": 2, "PROMPTS": 2}.items():
        monkeypatch.setattr(trigger, name, value)
    monkeypatch.setattr(
        sys, "argv", ["trigger", str(SHIPPED_WEIGHTS / "stickers-adapter.safetensors")]
    )
    trigger.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["base", "add"]
    assert all(float(n) > 0 for line in lines for n in re.findall(r"\d+\.\d", line))


def _run(words: str) -> None:
    subprocess.run([sys.executable, "-m", *f"lidit_stickers.{words}".split()], cwd=ROOT, check=True)


NAMES = ("*.md", "docs/**/*.md", "recipes/**/*.yaml")
DOCUMENTS = [path for names in NAMES for path in ROOT.glob(names)]


def documented() -> dict[str, set[str]]:
    """Every sticker command that people are told to type, with the options that they are told."""
    commands: dict[str, set[str]] = {}
    for path in DOCUMENTS:
        text = re.sub(r"\\\n#?\s*", "", path.read_text(encoding="utf-8"))
        for name, words in re.findall(r"python -m lidit_stickers\.([\w.]+)([^\n`]*)", text):
            commands.setdefault(name, set()).update(re.findall(r"--[\w-]+", words))
    return commands


def help_of(module: str, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> str:
    """What `python -m MODULE --help` prints."""
    patch.syspath_prepend(ROOT)
    patch.setattr(sys, "argv", [module, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    assert not ended.value.code
    return capsys.readouterr().out


IMPORTED = pytest.mark.filterwarnings("ignore::RuntimeWarning:runpy")  # by another test


@IMPORTED
@pytest.mark.parametrize("name", sorted(documented()))
def test_documented_commands_know_their_options(name, monkeypatch, capsys):
    told = help_of(f"lidit_stickers.{name}", monkeypatch, capsys)
    assert {option for option in documented()[name] if option not in told} == set()


FORMER = sorted(path.stem for path in ROOT.glob("stickers/*.py"))


@IMPORTED
@pytest.mark.parametrize("name", FORMER)
def test_the_commands_of_before_still_start(name, monkeypatch, capsys):
    assert help_of(f"stickers.{name}", monkeypatch, capsys).startswith("usage: ")
