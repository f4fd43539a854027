"""The checkpoint that misunderstands is made. Run: pytest tests/stickers/test_demo_checkpoint.py"""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from tiny_llm import save_llm

from lidit_core.demo.checkpoint import TEXT_PREFIX, read_demo_checkpoint
from lidit_core.errors import LiDiTError
from lidit_stickers.making import train_checkpoint
from lidit_stickers.making.request_reader import RequestReader
from lidit_stickers.making.train_checkpoint import SIDE, DemoRecipe, DemoTrainer, export
from lidit_stickers.scenes.request import Item, SceneRequest
from lidit_train.recipe import Adapter
from lidit_train.tasks.adapter.input import input_spec
from lidit_train.tasks.adapter.target import adapter_target
from lidit_train.tasks.adapter.unet import read_unet

pytest.importorskip("diffusers")
pytestmark = pytest.mark.font

RECIPE = DemoRecipe(scenes=8, images=12, batch=2, save_every=3)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of 6 steps, straight on."""
    with pytest.MonkeyPatch.context() as patch:
        small = {**train_checkpoint.UNET, "block_out_channels": (32, 32)}
        patch.setattr(train_checkpoint, "UNET", small)
        folder = tmp_path_factory.mktemp("checkpoint")
        trainer = DemoTrainer(RECIPE, folder / "straight")
        assert trainer.x.shape == (8, 16, SIDE // 8, SIDE // 8)
        yield folder, trainer, trainer.train()


def test_latents_are_normalised_channel_by_channel(made):
    _, trainer, _ = made
    assert trainer.x.mean((0, 2, 3)).abs().max() < 1e-4
    torch.testing.assert_close(trainer.x.std((0, 2, 3)), torch.ones(16))


def test_an_interrupted_run_goes_on_to_the_same_bits(made):
    folder, _, straight = made
    first = DemoTrainer(RECIPE, folder / "killed")
    for _ in range(3):
        first._train_step()
    first._save()
    first._train_step()  # which is lost
    again = DemoTrainer(RECIPE, folder / "killed")
    assert again.step == 3
    model = again.train()
    state = straight.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert DemoTrainer(RECIPE, folder / "killed").step == RECIPE.steps == 6


def test_a_lengthened_run_decays_once(made, caplog):
    folder, _, straight = made
    short = replace(RECIPE, images=8)  # 4 steps, which decay from the third on
    DemoTrainer(short, folder / "longer").train()
    with caplog.at_level(logging.INFO, "lidit_train"):
        longer = DemoTrainer(RECIPE, folder / "longer")
    assert longer.step == 3 and "step 4 lies in the decay of a shorter run" in caplog.text
    model, state = longer.train(), straight.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    longer.files.before.unlink()
    with caplog.at_level(logging.INFO, "lidit_train"):
        again = DemoTrainer(replace(RECIPE, images=24), folder / "longer")
    assert again.step == 6 and "no checkpoint from before it is there" in caplog.text


def test_a_run_that_learnt_from_other_scenes_is_told(made):
    with pytest.raises(LiDiTError, match="6 scenes are asked for, and the run in .* with 8;"):
        DemoTrainer(replace(RECIPE, scenes=6), made[0] / "straight")


@torch.no_grad()
def test_its_file_is_one_that_an_adapter_is_trained_on(made, tmp_path):
    _, trainer, model = made
    path = tmp_path / "stickers-sd.safetensors"
    export(model, trainer.latent, path)
    config, tensors = read_demo_checkpoint(path)
    assert config.latent == trainer.latent and (config.native_size, config.prediction) == (64, "v")
    assert config.text_encoder().tokenize("a red cat") == model.text.tokenize("a red cat")
    words = tensors[f"{TEXT_PREFIX}words.weight"]
    torch.testing.assert_close(words.float(), model.text.words.weight, rtol=0.01, atol=0.01)
    unet = read_unet(path).unet
    z, t = torch.randn(1, 16, 8, 8), torch.tensor([500.0])
    text = model.text.read(["a red cat"])
    made_again = unet(z, t, text).sample
    asked = [SceneRequest((Item("cat", "red"),))]
    its_own, told = (
        model(z, t, ["a red cat"], asked, torch.tensor([told])) for told in (False, True)
    )
    torch.testing.assert_close(made_again, its_own, rtol=0, atol=0.05)
    assert (told - its_own).abs().mean() > 3 * (made_again - its_own).abs().mean()
    assert not any("requests" in key for key in tensors)


def test_a_run_begins_with_a_checkpoint(made, tmp_path):
    _, trainer, model = made
    path = tmp_path / "stickers-sd.safetensors"
    export(model, trainer.latent, path)
    begun = DemoTrainer(RECIPE, tmp_path / "run", path).model
    for part in ("unet", "text"):
        before, state = getattr(model, part).state_dict(), getattr(begun, part).state_dict()
        for key, value in before.items():
            torch.testing.assert_close(state[key], value, rtol=0.01, atol=1e-4)  # kept in bf16


def test_a_request_is_read_group_by_group():
    reader = RequestReader(8, 5)
    apples, cat = Item("apple", "red", 2), Item("cat", size="small")
    left = SceneRequest((apples, cat), "left of", "blue")
    right = replace(left, relation="right of")
    read = reader([left, right, SceneRequest((cat, apples), "right of", "blue"), None])
    assert read.shape == (4, 5, 8)
    torch.testing.assert_close(read[0, [1, 0, 2, 3, 4]], read[2])  # the same said the other way
    assert not torch.allclose(read[0, :2], read[1, :2]) and torch.equal(read[0, 2:], read[1, 2:])
    assert torch.equal(read[3], read[0, 4:].expand(5, 8))  # nothing is told


def test_a_target_reads_what_the_file_says_of_itself(made, tmp_path):
    _, trainer, model = made
    path = tmp_path / "stickers-sd.safetensors"
    export(model, trainer.latent, path)
    target = adapter_target(Adapter(base=str(path), llm=str(save_llm(tmp_path / "llm"))))
    assert (input_spec(target).prediction, target.native_size, target.latent) == (
        "v",
        SIDE,
        trainer.latent,
    )
    assert (target.shape.family, target.adapter.context_width) == ("small", 64)
