"""One checkpoint is enough: U-Net, autoencoder, text encoders and prediction are read from it.

Run: pytest tests/train/tasks/test_one_file_base.py
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_adapter_training import SHAPE, adapter_recipe, make_world
from tiny_unet import TINY

from lidit_core.errors import LiDiTError
from lidit_core.model.config import LatentFormat
from lidit_train.data.autoencoders.find import AutoencoderFile, find_autoencoder
from lidit_train.run import train
from lidit_train.tasks.adapter import target as targets
from lidit_train.tasks.adapter.base_text import base_text
from lidit_train.tasks.adapter.clip_tokenizer import clip_tokenizer
from lidit_train.tasks.adapter.target import adapter_target
from lidit_train.tasks.adapter.unet import read_unet

pytest.importorskip("diffusers")
from one_file import random_clip, random_vae, write_one_file  # noqa: E402

LATENT = LatentFormat("SD1.5", channels=4, std=(1 / 0.18215,))
SMALL = replace(SHAPE, in_channels=4, out_channels=4)
XL = replace(TINY["sdxl"], in_channels=4, out_channels=4)
TEXTS = ["a photo of a cat", "Zwei Hunde, 3 Autos!", ""]

CLIPS = "51b8a58f8c87bc7a"  # SHA-256 of OpenAI's vocab.json, its keys sorted


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = make_world(tmp_path_factory.mktemp("world"))
    write_one_file(folder / "sd.safetensors", SMALL, random_vae(), random_clip(SMALL.context_width))
    xl = random_clip(8), random_clip(16, pooled=16)
    write_one_file(folder / "xl.safetensors", XL, random_vae(), *xl)
    return folder


@pytest.fixture(autouse=True)
def small_is_known(monkeypatch):
    monkeypatch.setitem(targets.LATENTS, "small", LATENT)
    monkeypatch.setitem(targets.NATIVE, "small", 64)


def recipe_of(folder: Path, file: str, **adapter):
    data = {"adapter": {"base": str(folder / file), "modes": ["replace", "add"], **adapter}}
    stages = [{"images": 4, "batch": 2, "resolution": 64}]
    drawn = {"every": 2, "prompts": ["a cat"], "steps": 1}
    return adapter_recipe(folder, stages=stages, validation=drawn, **data)


@pytest.mark.parametrize("file", ["sd.safetensors", "xl.safetensors"])
def test_nothing_but_the_file_and_the_pictures_are_named(world, file):
    final = train(recipe_of(world, file), world / f"run-{file}", "cpu")
    assert final.is_file() and list((world / f"run-{file}" / "grids").iterdir())


def test_the_autoencoder_in_a_file_is_the_one_that_was_written(world):
    file = find_autoencoder("shipped", LATENT, world / "sd.safetensors")
    file.check(LATENT)
    ours, pictures = file.open("cpu"), torch.rand(2, 3, 32, 48)
    with torch.no_grad():
        theirs = random_vae()
        wanted = theirs.encode(2 * pictures - 1).latent_dist.mode()
        torch.testing.assert_close(ours.encode(pictures), wanted)
        drawn = (theirs.decode(wanted).sample / 2 + 0.5).clamp(0, 1)
        torch.testing.assert_close(ours.decode(wanted), drawn)
    half = file.open("cpu", half=True).encode(pictures)
    assert half.dtype == torch.float32 and (half - wanted).abs().max() < 0.05
    other = AutoencoderFile(world / "xl.safetensors")
    assert other.identity() == file.identity()  # the same autoencoder in another checkpoint


def test_an_autoencoder_of_its_own_in_that_layout_is_read(world):
    own = load_file(world / "sd.safetensors")
    place = "first_stage_model."
    own = {k.removeprefix(place): v for k, v in own.items() if k.startswith(place)}
    save_file(own, world / "vae.safetensors")
    found = find_autoencoder(str(world / "vae.safetensors"), LATENT)
    inside = find_autoencoder("shipped", LATENT, world / "sd.safetensors")
    assert found.identity() == inside.identity()


def wanted_of(clip, padding: int, texts: list[str]) -> torch.Tensor:
    ids = clip_tokenizer()(texts, padding="max_length", truncation=True, return_tensors="pt")
    ids = ids.input_ids
    for row in ids:
        row[row.tolist().index(49407) + 1 :] = padding
    with torch.no_grad():
        return clip(ids, output_hidden_states=True)


def test_the_text_encoders_in_a_file_are_those_that_were_written(world):
    own = base_text(adapter_target(recipe_of(world, "sd.safetensors").adapter), "")
    with torch.no_grad():
        context, pooled = own.eval().read(TEXTS)
    wanted = wanted_of(random_clip(SMALL.context_width), 49407, TEXTS).last_hidden_state
    torch.testing.assert_close(context, wanted)
    assert pooled is None

    own = base_text(adapter_target(recipe_of(world, "xl.safetensors").adapter), "")
    with torch.no_grad():
        context, pooled = own.eval().read(TEXTS)
    small = wanted_of(random_clip(8), 49407, TEXTS)
    large = wanted_of(random_clip(16, pooled=16), 0, TEXTS)
    torch.testing.assert_close(context[..., :8], small.hidden_states[-2])
    torch.testing.assert_close(context[..., 8:], large.hidden_states[-2])
    torch.testing.assert_close(pooled, large.text_embeds)


def test_the_tokenizer_is_clips(world):
    read = clip_tokenizer()
    assert len(read) == 49408
    ids = read("a photo of a cat").input_ids
    assert ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    vocabulary = json.dumps(read.get_vocab(), sort_keys=True).encode()
    assert hashlib.sha256(vocabulary).hexdigest()[:16] == CLIPS


@pytest.mark.parametrize("told", ["tensor", "metadata"])
def test_a_file_that_predicts_v_is_known(world, told):
    tensors = load_file(world / "sd.safetensors")
    extra = {"v_pred": torch.zeros(1)} if told == "tensor" else {}
    metadata = {"modelspec.prediction_type": "v"} if told == "metadata" else {}
    from safetensors import safe_open

    with safe_open(world / "sd.safetensors", "pt") as file:
        metadata |= file.metadata()
    save_file({**tensors, **extra}, world / "v.safetensors", metadata)
    assert read_unet(world / "v.safetensors").prediction == "v"
    assert read_unet(world / "sd.safetensors").prediction == "eps"


def test_what_a_file_lacks_is_named(world):
    tensors = load_file(world / "sd.safetensors")
    from safetensors import safe_open

    with safe_open(world / "sd.safetensors", "pt") as file:
        metadata = file.metadata()
    for part, told in {
        "first_stage_model.": "bare.safetensors holds no autoencoder; give that of SD1.5, a",
        "cond_stage_model.": "bare.safetensors holds no CLIP, only other parts; give a checkpoint",
    }.items():
        left = {k: v for k, v in tensors.items() if not k.startswith(part)}
        save_file(left, world / "bare.safetensors", metadata)
        with pytest.raises(LiDiTError, match=told):
            train(recipe_of(world, "bare.safetensors"), world / "bare-run", "cpu")
    assert not (world / "bare-run" / "recipe.json").exists()
    whole = str(world / "sd.safetensors")  # whose text encoders another checkpoint may take
    train(recipe_of(world, "bare.safetensors", text_encoders=whole), world / "lent", "cpu")
