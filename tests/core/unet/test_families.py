"""What a U-Net is, read off its tensors' names and shapes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from tiny_unet import SMALL, TINY

from lidit_core.errors import LiDiTError
from lidit_core.io.tensors import HOST_PREFIX, write_safetensors
from lidit_core.unet.families import FAMILIES, UNetShape, cross_attention_layers, host_config
from lidit_core.unet.shape import read_shape, unet_shape

SD15, SDXL = FAMILIES["sd15"], FAMILIES["sdxl"]


def ldm_shapes(shape: UNetShape) -> dict[str, tuple[int, ...]]:
    """Of every tensor in LDM's layout, from diffusers' model on the meta device."""
    pytest.importorskip("diffusers")
    from lidit_train.tasks.adapter.unet import build_unet
    from lidit_train.tasks.adapter.unet_names import names

    state = build_unet(shape, device="meta").state_dict()
    return {ldm: tuple(state[diffusers].shape) for ldm, diffusers in names(shape).items()}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("channels", [4, 9])
def test_a_released_model_is_known_without_a_configuration(family, channels):
    shape = replace(FAMILIES[family], in_channels=channels)
    found = unet_shape(ldm_shapes(shape))
    assert found == shape
    assert found.family == family


def test_sd15_has_16_layers_in_order_of_execution():
    layers = cross_attention_layers(SD15)
    assert len(layers) == 16
    assert [layer.block for layer in layers] == [
        *(("input", i) for i in (1, 2, 4, 5, 7, 8)),
        ("middle", 0),
        *(("output", i) for i in range(3, 12)),
    ]
    assert [layer.width for layer in layers] == [
        *(320, 320, 640, 640, 1280, 1280, 1280),
        *(1280, 1280, 1280, 640, 640, 640, 320, 320, 320),
    ]
    assert {layer.heads for layer in layers} == {8}
    assert layers[0].name == "input_blocks.1.1.transformer_blocks.0"
    assert layers[0].diffusers == "down_blocks.0.attentions.0.transformer_blocks.0"
    assert layers[-1].diffusers == "up_blocks.3.attentions.2.transformer_blocks.0"


def test_sdxl_has_70_layers_with_heads_of_64():
    layers = cross_attention_layers(SDXL)
    assert len(layers) == 70
    assert {layer.width // layer.heads for layer in layers} == {64}
    middle = [layer for layer in layers if layer.block == ("middle", 0)]
    assert [layer.index for layer in middle] == list(range(10))
    assert middle[9].name == "middle_block.1.transformer_blocks.9"
    assert len({layer.name for layer in layers}) == len({layer.diffusers for layer in layers}) == 70


@pytest.mark.parametrize("name", TINY)
def test_a_small_unet_tells_its_heads_in_the_metadata(name, tmp_path):
    shape, path = TINY[name], tmp_path / "unet.safetensors"
    heads = [shape.heads(level) for level in shape.levels]
    tensors = {f"{HOST_PREFIX}{k}": torch.empty(v) for k, v in ldm_shapes(shape).items()}
    metadata = {"unet": json.dumps({"attention_head_dim": heads})}
    write_safetensors(path, tensors | {"first_stage_model.x": torch.zeros(1)}, metadata)
    assert read_shape(path) == shape
    assert read_shape(path).family == "small"

    write_safetensors(path, tensors, {})
    with pytest.raises(LiDiTError, match="nothing tells its attention heads.*metadata 'unet'"):
        read_shape(path)


@pytest.mark.parametrize("heads", [None, 0, 7, [8], [4, 3], "8", [8, 2.0]])
def test_odd_heads_are_refused(heads):
    shapes = ldm_shapes(SMALL)
    with pytest.raises(LiDiTError, match="attention_head_dim"):
        unet_shape(shapes, {"attention_head_dim": heads})


def test_metadata_that_is_no_json_is_refused(tmp_path):
    path = tmp_path / "unet.safetensors"
    write_safetensors(path, {"x": torch.zeros(1)}, {"unet": "{"})
    with pytest.raises(LiDiTError, match="unet.safetensors has metadata 'unet' that is no JSON"):
        read_shape(path)


def test_unets_that_are_not_served_are_named():
    with pytest.raises(LiDiTError, match="Stable Diffusion 2"):
        unet_shape(ldm_shapes(replace(SD15, context_width=1024, use_linear=True)))

    uneven = ldm_shapes(SDXL)  # as SSD-1B, whose second blocks are less deep
    uneven = {k: v for k, v in uneven.items() if ".8.1.transformer_blocks.9." not in k}
    with pytest.raises(LiDiTError, match=r"\(1280, 9\), \(1280, 10\).*distilled"):
        unet_shape(uneven)

    headless = {k: v for k, v in ldm_shapes(SD15).items() if "middle_block.1" not in k}
    with pytest.raises(LiDiTError, match="lacks middle_block.1.*SD1.5 or SDXL"):
        unet_shape(headless)


def test_heads_are_counted_one_way():
    with pytest.raises(LiDiTError, match="num_heads=8 and head_width=64"):
        replace(SD15, head_width=64)


def test_the_hosts_keywords_are_those_it_has_for_sdxl():
    """The host's own, from its comfy/model_detection.py."""
    config = host_config(SDXL)
    assert config["transformer_depth"] == [0, 0, 2, 2, 10, 10]
    assert config["transformer_depth_output"] == [0, 0, 0, 2, 2, 2, 10, 10, 10]
    assert (config["num_heads"], config["num_head_channels"]) == (-1, 64)
    assert (config["num_classes"], config["adm_in_channels"]) == ("sequential", 2816)
