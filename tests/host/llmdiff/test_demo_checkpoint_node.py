"""The demo checkpoint under the host's own sampler."""

from __future__ import annotations

import inspect

import numpy
import pytest
import torch
from safetensors.torch import load_file


@pytest.fixture(scope="module")
def path(pack):
    shipped = pack.module("lidit_core.demo.checkpoint").SHIPPED
    return pack.module("lidit_core.paths").SHIPPED_WEIGHTS / shipped


@pytest.fixture(scope="module")
def parts(pack, path):
    return pack.module("host.llmdiff.demo_checkpoint").load_demo_checkpoint(path)


@pytest.fixture
def draw(host, parts):
    """The picture of a text by the stock KSampler."""

    def drawn(text: str, steps: int = 4) -> torch.Tensor:
        model, clip, vae = parts
        latent = {"samples": torch.zeros(1, 16, 8, 8)}
        with torch.inference_mode():
            read = [clip.encode_from_tokens_scheduled(clip.tokenize(t)) for t in (text, "")]
            (out,) = host.nodes.common_ksampler(
                model, 0, steps, 5.0, "euler", "normal", *read, latent
            )
            return vae.decode(out["samples"])

    return drawn


def test_it_draws_and_its_text_has_no_order(draw):
    picture = draw("a cat on a blue background")
    assert picture.shape == (1, 64, 64, 3) and picture.std() > 0.02
    same, other = draw("a blue cat on a background"), draw("two dogs")
    assert (picture - same).abs().max() < 1e-3 < (picture - other).abs().max()


def test_its_unet_is_that_of_the_file(parts, path):
    weights = load_file(path)
    for name, value in parts[0].model.diffusion_model.state_dict().items():
        assert torch.equal(value, weights[f"model.diffusion_model.{name}"].to(value))


def test_another_file_gets_a_sentence(pack, path):
    error = pack.module("lidit_core.errors").LiDiTError
    with pytest.raises(error, match="is no demo checkpoint"):
        pack.module("host.llmdiff.demo_checkpoint").load_demo_checkpoint(
            path.with_name("stickers.safetensors")
        )


def test_the_host_can_make_copies_of_its_weights(pack, host, parts, draw):
    model, clip, _ = parts
    if "force_deepcopy" not in inspect.signature(model.clone).parameters:
        pytest.skip("needs ComfyUI 0.33: models that are made anew for each GPU")
    plain = draw("a cat")
    for patcher in (model, clip.patcher):
        fresh = patcher.clone(force_deepcopy=True)
        assert fresh.model is not patcher.model
        theirs = fresh.model.state_dict()
        for name, value in patcher.model.state_dict().items():
            assert torch.equal(theirs[name], value), name
    assert torch.equal(draw("a cat"), plain)


def test_its_previews_resemble_the_picture(parts, draw, host):
    from latent_preview import Latent2RGBPreviewer

    model, _, vae = parts
    looks = model.model.latent_format
    shown = Latent2RGBPreviewer(looks.latent_rgb_factors, looks.latent_rgb_factors_bias)
    picture = draw("a cat on a blue background", 10)
    seen = looks.process_in(vae.encode(picture))
    preview = torch.tensor(numpy.asarray(shown.decode_latent_to_preview(seen))) / 255
    small = torch.nn.functional.avg_pool2d(picture.movedim(-1, 1), 8).movedim(1, -1)[0]
    assert (preview - small).abs().mean() < 0.08 < (preview - small.flip(-1)).abs().mean()
