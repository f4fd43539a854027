"""Guiders that draw with a second model: looked at like the first. Host's Python."""

from __future__ import annotations

import pytest
import torch
from conftest import wait_for
from model_kit import close, empty, save_noisy_lora, save_small

from lidit_core.model.config import LatentFormat


@pytest.fixture(scope="module", autouse=True)
def dual_guider(host) -> None:
    path = str(host.path / "comfy_extras" / "nodes_custom_sampler.py")
    assert wait_for(host.nodes.load_custom_node(path, module_parent="comfy_extras"))
    if "DualModelGuider" not in host.nodes.NODE_CLASS_MAPPINGS:
        pytest.skip(f"ComfyUI {host.version} has no DualModelGuider")


@pytest.fixture
def second(kit, tmp_path):
    """`second(prediction="eps")`: another LI-DiT."""
    return lambda **changes: kit.model.load_model(
        save_small(tmp_path / "second.safetensors", seed=3, **changes)
    )


@pytest.fixture
def draw(kit, model):
    """Draws with a model for the negative prompt."""
    import comfy.samplers

    def drawn(other, first=None) -> torch.Tensor:
        prompts = {"positive": kit.prompt(seed=1), "negative": kit.prompt(length=6, seed=99)}
        guider = kit.stock_v3(
            "DualModelGuider", model=first or model, model_negative=other, cfg=3.0, **prompts
        )
        noise = torch.randn(1, 16, 4, 4, generator=torch.Generator().manual_seed(5))
        sigmas, euler = torch.linspace(1, 0, 5), comfy.samplers.ksampler("euler")
        with torch.inference_mode():
            return guider.sample(noise, empty()["samples"], euler, sigmas)

    return drawn


def test_a_second_training_draws_without_a_word(model, draw, second, caplog):
    assert close(draw(model), draw(model.clone()))
    assert not close(draw(second()), draw(model), 1e-2) and not caplog.text


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"prediction": "eps"}, "prediction, flow and eps"),
        ({"latent": LatentFormat("others", 16, 8)}, "latents, .* and others"),
    ],
)
def test_a_second_model_of_another_kind_is_refused(kit, draw, second, changes, words):
    """It drew, and said nothing."""
    errors = kit.pack.module("lidit_core.errors")
    with pytest.raises(errors.LiDiTError, match=f"second model that differs in {words}.*one kind"):
        draw(second(**changes))


def test_a_second_model_of_the_hosts_is_refused(kit, draw, unet):
    errors = kit.pack.module("lidit_core.errors")
    with pytest.raises(errors.LiDiTError, match="differs in prediction, flow and eps or v"):
        draw(unet)


def test_a_second_models_weights_are_looked_at(kit, host, model, draw, tmp_path, caplog):
    wide = save_small(tmp_path / "wide.safetensors", width=64)
    save_noisy_lora(wide, host.base / "models" / "loras" / "wide.safetensors", 0.1)
    loader = host.nodes.LoraLoaderModelOnly()
    draw(loader.load_lora_model_only(model, "wide.safetensors", 1.0)[0])
    assert "choose one that was trained on this" in caplog.text
