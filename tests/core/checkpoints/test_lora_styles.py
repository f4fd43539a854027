"""LoRA files of other trainers. Run: pytest tests/core/checkpoints/test_lora_styles.py

What the host makes of them is compared in tests/host/lidit/lora/test_lora_styles_in_host.py.
"""

from __future__ import annotations

import pytest
import torch
from tiny_lidit import RANK, STYLES, random_lidit, styled

from lidit_core.checkpoints.lora import merge_lora, read_lora, write_lora
from lidit_core.checkpoints.lora_styles import WRITTEN
from lidit_core.errors import LiDiTError
from lidit_core.io.tensors import write_safetensors

KEY = "blocks.0.mlp.0.weight"


@pytest.fixture(scope="module")
def model():
    return random_lidit(1)


def merged(model, tensors, folder, strength: float = 1.0):
    path = folder / "lora.safetensors"
    write_safetensors(path, tensors, {})
    return merge_lora(model.config, model.state_dict(), path, strength)


@pytest.mark.parametrize("style", STYLES)
def test_each_style_changes_the_weights_that_it_names(model, tmp_path, style):
    weights = model.state_dict()
    found = merged(model, styled(style, weights), tmp_path)
    changed = {key for key in weights if not torch.equal(found[key], weights[key])}
    assert {k for k in weights if k.startswith("blocks.") and weights[k].ndim == 2} <= changed
    assert all(key.startswith("blocks.") for key in changed)
    nothing = merged(model, styled(style, weights), tmp_path, 0.0)
    assert all(torch.equal(nothing[key], weights[key]) for key in weights)


def test_what_each_style_computes(model, tmp_path):
    weight = model.state_dict()[KEY]
    rows, columns = weight.shape

    def change(style: str) -> tuple[dict, torch.Tensor]:
        tensors = styled(style, {KEY: weight})
        parts = {key.rpartition(".0")[2] or key: t for key, t in tensors.items()}
        parts = {key.removeprefix("lora_unet_blocks_0_mlp_0"): t for key, t in parts.items()}
        return parts, merged(model, tensors, tmp_path)[KEY]

    for style, (a, b) in {"plain": ("A", "B"), "kohya": ("down", "up")}.items():
        parts, found = change(style)
        a, b = (parts[f".lora_{end}.weight"] for end in (a, b))
        torch.testing.assert_close(found, weight + 2 / RANK * b @ a)
    parts, found = change("loha")
    first, second = (parts[f".hada_w{n}_a"] @ parts[f".hada_w{n}_b"] for n in (1, 2))
    torch.testing.assert_close(found, weight + 2 / RANK * first * second)
    parts, found = change("dora-columns")
    lengths = found.norm(dim=0, keepdim=True)
    torch.testing.assert_close(lengths, parts[".dora_scale"], rtol=1e-4, atol=1e-5)
    parts, found = change("oft")
    torch.testing.assert_close(found.norm(), weight.norm())  # rotated, not stretched
    assert not torch.allclose(found, weight, atol=1e-2)


@pytest.mark.parametrize("kind", ["plain", "dora-columns", "kohya-dora", "loha", "oft"])
@pytest.mark.parametrize("names", WRITTEN)
def test_what_is_written_in_a_style_is_read_as_the_same_change(model, tmp_path, names, kind):
    weights = model.state_dict()
    wanted = merged(model, styled(kind, weights), tmp_path)
    layers = read_lora(tmp_path / "lora.safetensors").of(weights).layers
    alpha = float(next(iter(layers.values())).get("alpha", RANK))
    write_lora(tmp_path / "again", layers, alpha, model.config, style=names)
    found = merge_lora(model.config, weights, tmp_path / "again")
    assert all(torch.equal(found[key], wanted[key]) for key in weights)
    assert read_lora(tmp_path / "again").about["rank"] == (8 if kind == "oft" else RANK)


def with_(more: dict, style: str = "plain"):
    return lambda weights: {**styled(style, {KEY: weights[KEY]}), **more}


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (with_({"diffusion_model.blocks.0.mlp.0.lokr_w1": torch.ones(2, 2)}), r"lokr_w1"),
        (with_({"diffusion_model.blocks.0.mlp.0.lora_magnitude_vector": torch.ones(2)}), "magnit"),
        (with_({"lora_te_text_model.lora_up.weight": torch.ones(2, 2)}), "lora_te_text_model"),
        (with_({"diffusion_model.blocks.0.mlp.0.rescale": torch.ones(2)}), "rescale"),
        (with_({"lora_unet_blocks_9_mlp_0.lora_up.weight": torch.ones(2, 1)}), "expected"),
        (
            with_({"lora_unet_x.lora_up.weight": torch.ones(2, 1),
                   "lora_unet_x.lora_down.weight": torch.ones(1, 2)}),
            "lacks, lora_unet_x.weight first",
        ),
        (
            with_({"lora_unet_blocks_0_mlp_0.lora_up.weight": torch.ones(128, 1),
                   "lora_unet_blocks_0_mlp_0.lora_down.weight": torch.ones(1, 32)}),
            "blocks.0.mlp.0 under two names",
        ),
        (with_({"diffusion_model.blocks.0.mlp.0.oft_blocks": torch.ones(2, 3, 3)}), "two styles"),
        (lambda w: {"diffusion_model.blocks.0.mlp.0.dora_scale": torch.ones(2)}, "alone"),
        (lambda w: {"diffusion_model.blocks.0.mlp.0.oft_blocks": torch.ones(2, 3, 3)}, r"as \(6"),
        (lambda w: {"diffusion_model.blocks.0.mlp.0.oft_blocks": torch.ones(2, 3, 4)}, "n, n"),
        (lambda w: {"diffusion_model.blocks.0.mlp.0.hada_w1_a": torch.ones(2, 3)}, "LoHa's four"),
        (
            with_({"diffusion_model.blocks.0.mlp.0.dora_scale": torch.ones(5, 1)}),
            "neither its rows nor its columns",
        ),
    ],
)  # fmt: skip
def test_what_is_not_known_or_does_not_fit_is_refused_by_name(model, tmp_path, made, told):
    with pytest.raises(LiDiTError, match=told) as refused:
        merged(model, made(model.state_dict()), tmp_path)
    assert "\n" not in str(refused.value)


def test_an_alpha_of_several_numbers_is_refused_in_each_style(model, tmp_path):
    for style in ("oft", "loha", "plain"):
        tensors = styled(style, {KEY: model.state_dict()[KEY]})
        tensors = {k: torch.ones(2) if k.endswith("alpha") else v for k, v in tensors.items()}
        write_safetensors(tmp_path / "a", tensors, {})
        with pytest.raises(LiDiTError, match="expected one finite number"):
            read_lora(tmp_path / "a")
