"""The tiny autoencoder. Run: pytest tests/core/model/test_vae.py"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lidit_core.checkpoints.lidit import load_vae
from lidit_core.io.tensors import write_safetensors
from lidit_core.model.config import LatentFormat
from lidit_core.model.latents import denormalise, normalise
from lidit_core.model.vae import TinyAutoencoder
from lidit_core.paths import SHIPPED_WEIGHTS


def test_the_layout_is_taesds():
    state = TinyAutoencoder().state_dict()
    assert len(state) == 136
    shapes = {
        "taesd_encoder.0.weight": (64, 3, 3, 3),
        "taesd_encoder.14.weight": (16, 64, 3, 3),
        "taesd_decoder.1.weight": (64, 16, 3, 3),
        "taesd_decoder.19.weight": (3, 64, 3, 3),
        "vae_scale": (),
        "vae_shift": (),
    }
    assert {k: tuple(state[k].shape) for k in shapes} == shapes
    assert sum(v.numel() for v in state.values()) == 2_458_901


@pytest.mark.parametrize("height, width", [(32, 32), (16, 40)])
@torch.no_grad()
def test_shapes_and_ranges(height, width):
    model = TinyAutoencoder().initialise()
    latents = model.encode(torch.rand(2, 3, height, width))
    assert latents.shape == (2, 16, height // 8, width // 8)
    pictures = model.decode(10 * latents)
    assert pictures.shape == (2, 3, height, width)
    assert pictures.min() >= 0 and pictures.max() <= 1


@torch.no_grad()
def test_a_bypassed_block_is_what_its_zero_weights_compute(tmp_path):
    light = TinyAutoencoder(light=("encoder.1", "decoder.13", "decoder.18")).initialise()
    full = TinyAutoencoder()
    full.load_state_dict(light.state_dict())
    pictures = torch.rand(1, 3, 16, 16)
    latents = light.encode(pictures)
    assert torch.equal(latents, full.encode(pictures))
    assert torch.equal(light.decode(latents), full.decode(latents))
    write_safetensors(tmp_path / "vae.safetensors", light.state_dict(), {})
    loaded = load_vae(tmp_path / "vae.safetensors")
    assert loaded.taesd_decoder[18].bypassed and not loaded.taesd_decoder[3].bypassed
    assert torch.equal(loaded.decode(latents), light.decode(latents))


def test_latents_are_normalised_channel_by_channel():
    format = LatentFormat("x", 2, mean=(1.0, -1.0), std=(2.0, 0.5))
    latents = torch.tensor([3.0, 0.0]).view(1, 2, 1, 1)
    assert normalise(latents, format).flatten().tolist() == [1.0, 2.0]
    assert torch.equal(denormalise(normalise(latents, format), format), latents)


@pytest.mark.font
@torch.no_grad()
def test_the_shipped_autoencoder_gives_scenes_back():
    from lidit_stickers.evaluation import evaluation_prompts
    from lidit_stickers.scorer.damage import reconstruct
    from lidit_stickers.scorer.report import report
    from lidit_stickers.scorer.selftest import drawn

    path = SHIPPED_WEIGHTS / "stickers-vae.safetensors"
    assert path.stat().st_size < 5 << 20
    vae = load_vae(path)
    captions = evaluation_prompts()[::60]
    scenes = drawn(captions)
    pictures = [reconstruct(vae, scene) for scene in scenes]
    assert sum(report(pictures, captions).hits()) >= len(captions) - 1
    error = np.mean([np.abs(a.astype(int) - b).mean() for a, b in zip(scenes, pictures)])
    assert error < 0.02 * 255
