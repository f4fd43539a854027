"""The autoencoder's trainer and its linear encoder.

Run: pytest tests/train/vae/test_autoencoder.py
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lidit_core.checkpoints.lidit import load_vae
from lidit_core.errors import LiDiTError
from lidit_core.io.tensors import write_safetensors
from lidit_core.model.vae import TinyAutoencoder
from lidit_core.paths import SHIPPED_WEIGHTS
from lidit_train.vae.linear_encoder import principal_components
from lidit_train.vae.trainer import (
    AutoencoderRecipe,
    AutoencoderTrainer,
    Crops,
    decoder_loss,
    going_on_from,
    untrained_autoencoder,
)

SHIPPED = SHIPPED_WEIGHTS / "stickers-vae.safetensors"


def flat_crops(count: int, side: int, step: int) -> Crops:
    """Pictures of one colour each."""
    colours = torch.rand(count, 3, 1, 1, generator=torch.Generator().manual_seed(step))
    return Crops(colours.expand(-1, -1, side, side))


def linear() -> tuple[torch.Tensor, torch.Tensor]:
    return principal_components([flat_crops(64, 16, 1).pictures])


def test_an_autoencoder_learns_and_resumes(tmp_path):
    short = AutoencoderRecipe(crop=16, batch=4, steps=120, save_every=60, warmup=5)
    model = AutoencoderTrainer(short, linear, flat_crops, tmp_path).train()
    pictures = flat_crops(4, 16, 999).pictures
    with torch.no_grad():
        error = (model.decode(model.encode(pictures)) - pictures).abs().mean()
    assert error < 0.1  # a constant grey is 0.25 off
    again = AutoencoderTrainer(
        short, linear, lambda *_: pytest.fail("nothing is left to train"), tmp_path
    ).train()
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())


def test_a_lost_edge_costs_more_than_one_that_is_too_strong():
    """By the weight of lost edges alone, and a weak difference never does."""
    step = torch.tensor([0.1, 0.9]).repeat_interleave(4).expand(1, 3, 8, 8)
    soft, hard = (0.5 + factor * (step - 0.5) for factor in (0.8, 1.2))
    weak = (0.5 + factor * (step - 0.5) for factor in (0.2, 0.3))  # 0.24 of 1, and 90/255 is strong

    def added(ours: torch.Tensor, true: torch.Tensor) -> float:
        plain, asked = (decoder_loss(ours, true, 1.0, weight)[0] for weight in (0.0, 3.0))
        return float(asked - plain)

    assert added(soft, step) == pytest.approx(3 * 0.16 / 7)  # one of seven columns' differences
    assert added(hard, step) == added(step, step) == added(*weak) == 0


def test_a_lengthened_run_decays_once(tmp_path):
    """It ends in the weights of a run that was that long from the beginning."""
    short = AutoencoderRecipe(crop=16, batch=2, steps=4, save_every=3, warmup=1)
    AutoencoderTrainer(short, linear, flat_crops, tmp_path / "longer").train()
    recipe = replace(short, steps=8)
    runs = [AutoencoderTrainer(recipe, linear, flat_crops, tmp_path / n) for n in ("longer", "one")]
    assert [run.step for run in runs] == [3, 0]  # before the shorter run's decay
    longer, straight = (run.train().state_dict() for run in runs)
    assert all(torch.equal(value, longer[name]) for name, value in straight.items())


def test_workers_that_draw_ahead_change_nothing(tmp_path):
    recipe = AutoencoderRecipe(crop=16, batch=4, wide_every=2, steps=6, warmup=1, save_every=4)
    runs = [replace(recipe, workers=workers) for workers in (0, 2)]
    none, two = (
        AutoencoderTrainer(run, linear, flat_crops, tmp_path / str(run.workers)).train()
        for run in runs
    )
    assert all(torch.equal(v, two.state_dict()[k]) for k, v in none.state_dict().items())


def test_a_resumed_run_learns_from_the_steps_that_are_left(tmp_path):
    recipe = AutoencoderRecipe(crop=16, batch=4, wide_every=2, steps=6, workers=2)
    trainer = AutoencoderTrainer(recipe, linear, flat_crops, tmp_path)
    trainer.step = 3
    drawn = [crops.pictures for crops in trainer._drawn_ahead()]
    expected = [flat_crops(*recipe.shape(step), step).pictures for step in (3, 4, 5)]
    assert all(torch.equal(ours, true) for ours, true in zip(drawn, expected, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_gpu_learns_and_resumes(precision, tmp_path):
    """No step makes the CPU wait for the GPU, but where the state is saved."""
    recipe = AutoencoderRecipe(crop=16, batch=4, steps=120, save_every=60, warmup=5)
    recipe = replace(recipe, precision=precision, workers=2)
    trainer = AutoencoderTrainer(recipe, linear, flat_crops, tmp_path, "cuda")
    drawn = trainer._drawn_ahead()
    trainer._train_step(next(drawn))  # libraries are loaded in the first
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer._train_step(next(drawn))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    trainer._save()
    model = AutoencoderTrainer(recipe, linear, flat_crops, tmp_path, "cuda").train()
    pictures = flat_crops(4, 16, 999).pictures
    with torch.no_grad():
        error = (model.decode(model.encode(pictures)) - pictures).abs().mean()
    assert error < 0.1  # a constant grey is 0.25 off


def some_pictures() -> torch.Tensor:
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def with_dead_units() -> TinyAutoencoder:
    """The shipped autoencoder with a block at zero, and another whose ReLUs never respond."""
    model = load_vae(SHIPPED)
    model.taesd_decoder[18].bypass()
    with torch.no_grad():
        model.taesd_decoder[3].conv[0].bias.fill_(-1e3)
    return model


def test_a_decoder_goes_on_from_a_file_without_a_jump(tmp_path):
    file, pictures = tmp_path / "vae.safetensors", some_pictures()
    write_safetensors(file, with_dead_units().state_dict(), {})
    before, after = load_vae(file), going_on_from(file, pictures)
    with torch.no_grad():
        latents = before.encode(pictures)
        assert torch.equal(latents, after.encode(pictures))
        assert torch.allclose(before.decode(latents), after.decode(latents), atol=1e-5)


def test_every_unit_of_the_decoder_learns_and_nothing_of_the_encoder(tmp_path):
    file, pictures = tmp_path / "vae.safetensors", some_pictures()
    write_safetensors(file, with_dead_units().state_dict(), {})
    recipe = AutoencoderRecipe(str(file), crop=32, batch=4, steps=4, warmup=1, decay=0.0)
    trainer = AutoencoderTrainer(recipe, linear, lambda *_: Crops(pictures), tmp_path)
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    trainer.train()
    after = trainer.model.state_dict()
    kept = {k for k, v in after.items() if torch.equal(v, before[k])}
    assert kept == {k for k in after if not k.startswith("taesd_decoder.")}


def test_given_latents_are_decoded_as_they_are(tmp_path):
    """A step that has latents of a model asks the encoder for none, and adds no noise."""
    recipe = AutoencoderRecipe(str(SHIPPED), crop=16, batch=2, steps=1)
    trainer = AutoencoderTrainer(recipe, linear, flat_crops, tmp_path)
    given = torch.ones(2, 16, 2, 2)
    crops = flat_crops(2, 16, 0)
    assert trainer._latents(Crops(crops.pictures, given), crops.pictures) is given
    made = trainer._latents(crops, crops.pictures) - trainer.model.encode(crops.pictures)
    assert made.std() == pytest.approx(recipe.noise, rel=0.3)


def test_wide_steps_see_as_many_pixels():
    recipe = AutoencoderRecipe(sides=(192,), batch=8, wide_every=4)
    shapes = [recipe.shape(step) for step in range(8)]
    assert shapes.count((2, 96)) == 2 and shapes.count((8, 48)) == 6
    assert recipe.shape(3) == (2, 96)


@pytest.mark.parametrize(
    "wrong",
    [
        {"crop": 0},
        {"crop": 20},
        {"sides": (64,)},
        {"sides": ()},
        {"batch": 0},
        {"workers": -1},
        {"precision": "half"},
    ],
)
def test_what_cannot_be_trained_gets_a_sentence(wrong):
    with pytest.raises(LiDiTError, match="expected"):
        AutoencoderRecipe(**wrong)


def test_the_linear_encoder_is_principal_components_of_blocks():
    g = torch.Generator().manual_seed(0)
    pictures = torch.rand(6, 3, 24, 16, generator=g)
    pictures[:, :, ::2] *= 0.3  # some structure to find
    weight, offset = principal_components([pictures])
    model = untrained_autoencoder((weight, offset))
    with torch.no_grad():
        latents = model.encode(pictures)
    exact = torch.nn.functional.unfold(pictures, 8, stride=8).mT @ weight.T + offset
    assert latents.shape == (6, 16, 3, 2)
    assert (latents.flatten(2).mT - exact).abs().max() < 0.03  # weights are kept in bfloat16
    assert exact.mean(dim=(0, 1)).abs().max() < 1e-3
    assert exact.square().mean().sqrt() == pytest.approx(0.5, abs=0.01)
    assert not any(p.requires_grad for p in model.taesd_encoder.parameters())
