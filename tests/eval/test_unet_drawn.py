"""A checkpoint of Stable Diffusion's is drawn with as the stickers' is, by its own autoencoder.

Run: pytest tests/eval/test_unet_drawn.py
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_adapter_training import SHAPE, adapter_recipe, make_world

from lidit_core.cli import main
from lidit_core.model.config import LatentFormat
from lidit_eval.drawing import FOLDER
from lidit_train.run import train
from lidit_train.tasks.adapter import target as targets

pytest.importorskip("diffusers")
from one_file import random_clip, random_vae, write_one_file  # noqa: E402
from tiny_unet import random_unet  # noqa: E402

SMALL = replace(SHAPE, in_channels=4, out_channels=4)
PLACE = "first_stage_model."


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """One file of everything and an adapter for it; the file without its autoencoder; a folder."""
    folder = make_world(tmp_path_factory.mktemp("world"))
    with pytest.MonkeyPatch.context() as patch:
        latent = LatentFormat("SD1.5", channels=4, std=(1 / 0.18215,))
        patch.setitem(targets.LATENTS, "small", latent)
        patch.setitem(targets.NATIVE, "small", 64)
        clip = random_clip(SMALL.context_width)
        write_one_file(folder / "sd.safetensors", SMALL, random_vae(), clip)
        adapter = {"base": str(folder / "sd.safetensors"), "modes": ["replace"]}
        recipe = adapter_recipe(folder, adapter=adapter, stages=[{"images": 4, "batch": 2}])
        train(recipe, folder / "run", "cpu")
        whole = load_file(folder / "sd.safetensors")
        unet = {k: v for k, v in whole.items() if not k.startswith(PLACE)}
        with safe_open(folder / "sd.safetensors", "pt") as file:
            save_file(unet, folder / "unet.safetensors", file.metadata())
        vae = {k.removeprefix(PLACE): v for k, v in whole.items() if k.startswith(PLACE)}
        save_file(vae, folder / "vae.safetensors")
        random_unet(SMALL).save_pretrained(folder / "diffusers" / "unet")
        random_vae().save_pretrained(folder / "diffusers" / "vae")
        yield folder


@pytest.fixture
def evaluate(world, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(base: str, *words: str) -> str:
        given = ["--adapter", str(world / "run" / "final.safetensors"), "--mode", "replace"]
        given += [
            "--llm",
            str(world / "llm"),
            "--every",
            "500",
            "--steps",
            "1",
            "--device",
            "cpu",
            *words,
        ]
        status = main(["eval", str(world / base), *given])
        told = capsys.readouterr().err
        return told.splitlines()[-1] if status else ""

    return run


def record(out: str) -> dict:
    return json.loads(Path(out, "evaluation.json").read_text(encoding="utf-8"))


@pytest.mark.font
def test_one_file_is_drawn_by_the_autoencoder_in_it(evaluate):
    assert evaluate("sd.safetensors", "--out", "one") == ""
    assert Image.open(Path("one", FOLDER, "00000.png")).size == (64, 64)
    assert record("one")["autoencoder"].startswith("sd.safetensors (")


@pytest.mark.font
def test_a_diffusers_folder_is_drawn_with_and_known_by_its_weights(evaluate, world):
    assert evaluate("diffusers", "--out", "folder") == ""
    assert record("folder")["model"].startswith("diffusers (")
    assert record("folder")["autoencoder"].startswith("vae (")
    unet = world / "diffusers" / "unet" / "diffusion_pytorch_model.safetensors"
    kept = unet.read_bytes()
    unet.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    told = evaluate("diffusers", "--out", "folder")
    unet.write_bytes(kept)
    assert "folder holds an evaluation with model='diffusers (" in told


@pytest.mark.font
def test_a_checkpoint_without_an_autoencoder_takes_one(evaluate, world):
    told = evaluate("unet.safetensors", "--out", "none")
    assert "holds no autoencoder; give that of SD1.5" in told and "with --vae of lidit eval" in told
    own = str(world / "vae.safetensors")
    assert evaluate("unet.safetensors", "--vae", own, "--out", "given") == ""
    assert evaluate("sd.safetensors", "--out", "whole") == ""
    given, whole = (Image.open(Path(out, FOLDER, "00500.png")) for out in ("given", "whole"))
    assert given.tobytes() == whole.tobytes()


@pytest.mark.font
@pytest.mark.parametrize("size", ["60x60", "90x90", "4x4"])
def test_a_size_that_a_unet_would_round_is_refused(evaluate, size):
    told = evaluate("sd.safetensors", "--size", size, "--out", size)
    assert f"--size {size} is no multiple of 16, which the U-Net" in told
    assert not Path(size, FOLDER).exists()
