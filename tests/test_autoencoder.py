"""The autoencoder's trainer and its linear encoder. Run: pytest tests/test_autoencoder.py"""

from __future__ import annotations

import pytest
import torch

from lidit_train.autoencoder import (
    AutoencoderRecipe,
    AutoencoderTrainer,
    untrained_autoencoder,
)
from lidit_train.linear_encoder import principal_components


def flat_pictures(batch: int, step: int) -> torch.Tensor:
    """Pictures (batch, 3, 16, 16) of one colour each."""
    colours = torch.rand(batch, 3, 1, 1, generator=torch.Generator().manual_seed(step))
    return colours.expand(-1, -1, 16, 16)


def test_an_autoencoder_learns_and_resumes(tmp_path):
    light = tuple(f"decoder.{i}" for i in (9, 10, 13, 14, 15, 18))
    short = AutoencoderRecipe(light=light, batch=4, steps=120, save_every=60, warmup=5)
    linear = principal_components([flat_pictures(64, 1)])
    model = AutoencoderTrainer(short, linear, flat_pictures, tmp_path).train()
    pictures = flat_pictures(4, 999)
    with torch.no_grad():
        error = (model.decode(model.encode(pictures)) - pictures).abs().mean()
    assert error < 0.1  # a constant grey is 0.25 off
    again = AutoencoderTrainer(
        short, linear, lambda *_: pytest.fail("nothing is left to train"), tmp_path
    ).train()
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())


def test_the_linear_encoder_is_principal_components_of_blocks():
    g = torch.Generator().manual_seed(0)
    pictures = torch.rand(6, 3, 24, 16, generator=g)
    pictures[:, :, ::2] *= 0.3  # some structure to find
    weight, offset = principal_components([pictures])
    model = untrained_autoencoder(AutoencoderRecipe(), (weight, offset))
    with torch.no_grad():
        latents = model.encode(pictures)
    exact = torch.nn.functional.unfold(pictures, 8, stride=8).mT @ weight.T + offset
    assert latents.shape == (6, 16, 3, 2)
    assert (latents.flatten(2).mT - exact).abs().max() < 0.03  # weights are kept in bfloat16
    assert exact.mean(dim=(0, 1)).abs().max() < 1e-3
    assert exact.square().mean().sqrt() == pytest.approx(0.5, abs=0.01)
    assert not any(p.requires_grad for p in model.taesd_encoder.parameters())
