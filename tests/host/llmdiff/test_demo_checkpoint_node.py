"""The demo checkpoint under the host's own sampler."""

from __future__ import annotations

import inspect

import numpy
import pytest
import torch
from safetensors.torch import load_file

ADAPTER = "stickers-adapter.safetensors"


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


@pytest.fixture(scope="module")
def read_by_the_llm(pack):
    """LLMDiff Encode's conditioning for a base, of random states of the shipped adapter's LLM."""
    cond, states = pack.module("host.llmdiff.conditioning"), pack.module("lidit_core.text.states")
    path = pack.module("lidit_core.paths").SHIPPED_WEIGHTS / ADAPTER
    config = pack.module("lidit_core.llmdiff.file").read_adapter_config(path)
    hidden = torch.randn(1, 9, (config.blocks + 1) * config.llm.width)
    roles = torch.full((1, 9), states.PROMPT, dtype=torch.int32)
    reading = pack.module("host.keys").reading_of(config.llm.block, config.llm.template)
    text = cond.LLMText(config.llm.name, states.LLMStates(hidden, roles), reading, 9)
    return lambda base: cond.joined([cond.blank(base)], text)


def sampled(host, model, positive, negative, cfg: float = 4.0) -> torch.Tensor:
    latent = {"samples": torch.zeros(1, 16, 8, 8)}
    with torch.inference_mode():
        (out,) = host.nodes.common_ksampler(
            model, 0, 3, cfg, "euler", "normal", positive, negative, latent
        )
    return out["samples"]


@pytest.mark.parametrize("mode", ["add", "replace"])
def test_any_base_of_llmdiff_encode_gives_the_same_picture(
    pack, host, parts, read_by_the_llm, mode
):
    """Its text is 64 wide, which neither base is: the adapter knows, whatever was chosen."""
    model, clip, _ = parts
    path = pack.module("lidit_core.paths").SHIPPED_WEIGHTS / ADAPTER
    apply = pack.module("host.llmdiff.apply").with_adapter
    own = clip.encode_from_tokens_scheduled(clip.tokenize("a dog"))
    for start in (0.0, 0.6):  # from the beginning, and after steps of the checkpoint alone
        changed = apply(model, path, mode, 1.0, start, 1.0)
        for negative in ("the same", "its own text"):
            drawn = [
                sampled(host, changed, text, own if negative == "its own text" else text)
                for text in map(read_by_the_llm, ("SD1.5", "SDXL"))
            ]
            assert torch.isfinite(drawn[0]).all() and torch.equal(*drawn)


@pytest.mark.parametrize("chosen", ["SD1.5", "SDXL"])
def test_without_an_adapter_either_base_is_refused_in_a_sentence(
    pack, host, parts, read_by_the_llm, chosen
):
    text = read_by_the_llm(chosen)
    with pytest.raises(ValueError, match="no LLMDiff adapter.*put LLMDiff Apply") as told:
        sampled(host, parts[0], text, text, cfg=1.0)
    assert isinstance(told.value, pack.module("lidit_core.errors").LiDiTError)
