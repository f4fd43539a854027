"""U-Nets in LDM's layout and diffusers', there and back."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from tiny_lidit import lidit_config
from tiny_unet import SMALL, TINY, predict, random_inputs, random_unet

from lidit_core.checkpoints.lidit import save_lidit
from lidit_core.errors import LiDiTError
from lidit_core.io.tensors import read_safetensors, write_safetensors
from lidit_core.model.dit import LiDiT
from lidit_core.unet.families import FAMILIES, cross_attention_layers
from lidit_core.unet.shape import unet_shape
from lidit_train.tasks.adapter.unet import V_PRED, build_unet, read_unet, write_ldm
from lidit_train.tasks.adapter.unet_names import names

diffusers = pytest.importorskip("diffusers")

# As the released unet/config.json say, but for what equals diffusers' defaults.
RELEASED = {
    "sd15": {"attention_head_dim": 8, "cross_attention_dim": 768, "sample_size": 64},
    "sdxl": {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "attention_head_dim": [5, 10, 20],
        "block_out_channels": [320, 640, 1280],
        "cross_attention_dim": 2048,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "projection_class_embeddings_input_dim": 2816,
        "sample_size": 128,
        "transformer_layers_per_block": [1, 2, 10],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "use_linear_projection": True,
    },
}


def shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


@pytest.fixture(scope="module", params=TINY)
def unet(request):
    return random_unet(TINY[request.param])


@pytest.fixture(scope="module")
def small():
    return random_unet(SMALL)


@pytest.fixture
def checkpoint(small, tmp_path) -> Path:
    write_ldm(small, tmp_path / "small.safetensors", {})
    return tmp_path / "small.safetensors"


@pytest.fixture
def folder(small, tmp_path) -> Path:
    """A diffusers folder; its scheduler predicts v."""
    small.save_pretrained(tmp_path / "model" / "unet")
    scheduler = tmp_path / "model" / "scheduler" / "scheduler_config.json"
    scheduler.parent.mkdir()
    said = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    scheduler.write_text(json.dumps(said))
    return tmp_path / "model"


@pytest.mark.parametrize("family", RELEASED)
def test_every_tensor_of_a_released_model_has_a_name_in_both_layouts(family):
    with torch.device("meta"):
        released = diffusers.UNet2DConditionModel(**RELEASED[family])
    shape = unet_shape(shapes(released), released.config, "diffusers")
    assert shape == FAMILIES[family]
    assert shapes(build_unet(shape, device="meta")) == shapes(released)
    assert sorted(names(shape).values()) == sorted(released.state_dict())
    modules = dict(released.named_modules())
    for layer in cross_attention_layers(shape):
        block = modules[layer.diffusers]
        assert (block.attn2.to_q.in_features, block.attn2.heads) == (layer.width, layer.heads)


def test_layers_are_in_the_order_of_execution(unet):
    shape = unet_shape(shapes(unet), unet.config, "diffusers")
    order = []
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: order.append(name))
        for name, module in unet.named_modules()
        if name.endswith(".attn2")
    ]
    predict(unet, random_inputs(shape))
    for hook in hooks:
        hook.remove()
    assert order == [f"{layer.diffusers}.attn2" for layer in cross_attention_layers(shape)]


def test_the_same_is_predicted_after_a_round_trip(unet, tmp_path):
    write_ldm(unet, tmp_path / "unet.safetensors", {"title": "ours"}, {V_PRED: torch.tensor([])})
    base = read_unet(tmp_path / "unet.safetensors")
    assert base.family == "small"
    assert base.prediction == "v"
    assert read_safetensors(tmp_path / "unet.safetensors")[1]["title"] == "ours"
    inputs = random_inputs(base.shape)
    assert torch.equal(predict(unet, inputs), predict(base.unet, inputs))


def test_all_layouts_are_read_as_the_same_unet(small, checkpoint, folder, tmp_path):
    tensors, metadata = read_safetensors(checkpoint)
    alone = {k.removeprefix("model.diffusion_model."): v for k, v in tensors.items()}
    write_safetensors(tmp_path / "alone.safetensors", alone, metadata)
    config = {"unet": json.dumps(dict(small.config))}
    write_safetensors(tmp_path / "lone" / "lone.safetensors", small.state_dict(), config)
    whole = {**tensors, "first_stage_model.decoder.conv_in.weight": torch.zeros(1)}
    write_safetensors(tmp_path / "whole.safetensors", whole, metadata)
    lone = tmp_path / "lone" / "lone.safetensors"
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    inputs, expected = random_inputs(SMALL), read_unet(checkpoint)
    for path in (tmp_path / "alone.safetensors", tmp_path / "whole.safetensors", lone, folder):
        base = read_unet(path)
        assert base.shape == SMALL
        assert base.identity() == expected.identity()
        assert torch.equal(predict(base.unet, inputs), predict(small, inputs))
    for path in (folder / "unet", weights):  # whose configuration and scheduler lie beside
        assert read_unet(path).identity() == expected.identity()
        assert read_unet(path).prediction == "v"


def test_shards_are_read(small, checkpoint, tmp_path):
    small.save_pretrained(tmp_path / "unet", max_shard_size="1MB")
    assert len(list((tmp_path / "unet").glob("*.safetensors"))) > 1
    assert read_unet(tmp_path).identity() == read_unet(checkpoint).identity()


def test_one_changed_weight_is_another_identity(small, checkpoint, tmp_path):
    changed = random_unet(SMALL)
    with torch.no_grad():
        changed.conv_out.bias[3] += 1e-3
    write_ldm(changed, tmp_path / "other.safetensors", {})
    assert read_unet(tmp_path / "other.safetensors").identity() != read_unet(checkpoint).identity()


def test_the_file_is_written_in_half_precision_and_read_in_single(small, tmp_path):
    path = tmp_path / "half.safetensors"
    write_ldm(small, path, {}, {"llmdiff.x": torch.zeros(2)}, dtype=torch.float16)
    tensors, _ = read_safetensors(path)
    assert tensors.pop("llmdiff.x").dtype == torch.float32
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert read_unet(path).unet.dtype == torch.float32
    assert read_unet(path, dtype=torch.float16).unet.dtype == torch.float16


def test_training_leaves_the_file_as_it_is(checkpoint):
    """The parameters are mapped from it."""
    before, base = checkpoint.read_bytes(), read_unet(checkpoint)
    with torch.no_grad():
        for parameter in base.unet.parameters():
            parameter.add_(1.0)
    assert checkpoint.read_bytes() == before
    assert base.identity() == read_unet(checkpoint).identity()


def test_the_prediction_is_the_arguments_then_the_files(small, checkpoint, folder, tmp_path):
    assert read_unet(checkpoint).prediction == "eps"
    assert read_unet(checkpoint, "v").prediction == "v"
    assert read_unet(folder).prediction == "v"
    assert read_unet(folder).zero_snr
    assert read_unet(folder, "eps").prediction == "eps"
    marked = {V_PRED: torch.tensor([]), "ztsnr": torch.tensor([])}
    write_ldm(small, tmp_path / "v.safetensors", {}, marked)
    base = read_unet(tmp_path / "v.safetensors")
    assert (base.prediction, base.zero_snr) == ("v", True)


def test_predictions_that_cannot_be_trained_are_refused(small, checkpoint, folder, tmp_path):
    with pytest.raises(LiDiTError, match="'flow' is not known"):
        read_unet(checkpoint, "flow")
    write_ldm(small, tmp_path / "edm.safetensors", {}, {"edm_mean": torch.zeros(4)})
    with pytest.raises(LiDiTError, match="EDM"):
        read_unet(tmp_path / "edm.safetensors")
    (folder / "scheduler" / "scheduler_config.json").write_text('{"prediction_type": "sample"}')
    with pytest.raises(LiDiTError, match="prediction_type 'sample'"):
        read_unet(folder)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("lora_unet_input_blocks_1_1_proj_in.lora_down.weight", "a LoRA"),
        ("unet.down_blocks.0.attentions.0.proj_in.lora_A.weight", "a LoRA"),
        ("control_model.zero_convs.0.0.weight", "a ControlNet"),
        ("controlnet_cond_embedding.conv_in.weight", "a ControlNet"),
        ("model.diffusion_model.double_blocks.0.img_attn.qkv.weight", "a Flux"),
        ("joint_blocks.0.x_block.attn.qkv.weight", "a Stable Diffusion 3"),
        ("transformer_blocks.0.attn1.to_q.weight", "a diffusion transformer"),
        ("decoder.conv_in.weight", "an autoencoder"),
        ("text_model.embeddings.token_embedding.weight", "a text encoder"),
        ("lidit_config", "a LI-DiT"),
        ("something.else", "nothing that lidit knows"),
    ],
)
def test_a_file_of_something_else_is_named(tmp_path, name, kind):
    write_safetensors(tmp_path / "x.safetensors", {name: torch.zeros(2)}, {})
    with pytest.raises(LiDiTError, match=f"x.safetensors is {kind}.*; expected the U-Net of SD1.5"):
        read_unet(tmp_path / "x.safetensors")


def test_a_lidit_is_named(tmp_path):
    config = lidit_config("a")
    save_lidit(LiDiT(config), config, tmp_path / "lidit.safetensors")
    with pytest.raises(LiDiTError, match="is a LI-DiT; expected the U-Net"):
        read_unet(tmp_path / "lidit.safetensors")


def test_without_diffusers_it_is_said_how_to_get_it(checkpoint, monkeypatch):
    for name in ("diffusers", "diffusers.models.unets.unet_2d_condition"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(LiDiTError, match="python -m pip install diffusers"):
        read_unet(checkpoint)


def test_files_that_cannot_be_read_are_refused_in_one_sentence(tmp_path):
    (tmp_path / "old.ckpt").write_bytes(b"pickled")
    with pytest.raises(
        LiDiTError, match="old.ckpt is no .safetensors file.*convert it to .safetensors"
    ):
        read_unet(tmp_path / "old.ckpt")
    with pytest.raises(LiDiTError, match="no file .*gone.safetensors"):
        read_unet(tmp_path / "gone.safetensors")
    with pytest.raises(LiDiTError, match="holds no diffusion_pytorch_model.safetensors"):
        read_unet(tmp_path)
    (tmp_path / "config.json").write_text('{"_class_name": "FluxTransformer2DModel"}')
    with pytest.raises(LiDiTError, match="is diffusers' FluxTransformer2DModel"):
        read_unet(tmp_path)


def test_a_unet_that_computes_otherwise_is_refused(folder, small, checkpoint, tmp_path):
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "act_fn": "gelu"}))
    with pytest.raises(LiDiTError, match="act_fn='gelu'; expected 'silu'"):
        read_unet(folder)

    tensors, metadata = read_safetensors(checkpoint)
    tensors["model.diffusion_model.time_embed.cond_proj.weight"] = torch.zeros(2, 2)
    write_safetensors(tmp_path / "more.safetensors", tensors, metadata)
    with pytest.raises(LiDiTError, match=r"1 unexpected \(time_embed.cond_proj.weight\)"):
        read_unet(tmp_path / "more.safetensors")


def test_a_unet_with_layers_added_is_not_written(small, tmp_path):
    changed = random_unet(SMALL)
    changed.mid_block.extra = torch.nn.Linear(2, 2)
    with pytest.raises(LiDiTError, match="2 unexpected .mid_block.extra"):
        write_ldm(changed, tmp_path / "x.safetensors", {})
