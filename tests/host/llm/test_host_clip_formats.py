"""Every format of weights that the host knows, read through its own CLIP. Host's Python."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from host_clip_kit import Bench, check_equal, host_clip, save_case, write_meant

SCALES = {  # by the format: what a file calls each of its scales, and the host's layout
    "float8_e4m3fn": {"weight_scale": "scale"},
    "float8_e5m2": {"weight_scale": "scale"},
    "mxfp8": {"weight_scale": "scale"},
    "nvfp4": {"weight_scale": "block_scale", "weight_scale_2": "scale"},
    "int8_tensorwise": {"weight_scale": "scale"},
    "convrot_w4a4": {"weight_scale": "scale"},
    "asym_w4a8_int8": {
        "weight_s_rel": "scale",
        "weight_s_channel": "s_channel",
        "weight_codebook": "codebook",
    },
}


@pytest.fixture
def bench(host, pack):
    return Bench(host, pack)


@pytest.fixture
def formats(host):
    """The host's module of formats; imported late, as it looks for a GPU unless told not to."""
    return pytest.importorskip("comfy.quant_ops", reason="this host reads no comfy_quant")


def in_format(formats, weights: dict[str, torch.Tensor], name: str) -> tuple[dict, dict, int]:
    """The linear layers as the host writes them, what they are as numbers, and how many there are.

    A layer that has no whole number of groups stays as it is.
    """
    layout = formats.get_layout_class(formats.QUANT_ALGOS[name]["comfy_tensor_layout"])
    stored: dict[str, Any] = dict(weights)
    meant, count = dict(weights), 0
    told = torch.tensor(list(json.dumps({"format": name}).encode()), dtype=torch.uint8)
    for key, weight in weights.items():
        if not key.endswith("_proj.weight"):
            continue
        try:
            data, params = layout.quantize(weight.float())
        except ValueError as error:
            assert "divisible" in str(error)
            continue
        layer, count = key.removesuffix(".weight"), count + 1
        stored[key], meant[key] = data, layout.dequantize(data, params)
        stored[f"{layer}.comfy_quant"] = told
        for scale, attribute in SCALES[name].items():
            if (value := getattr(params, attribute)) is not None:
                stored[f"{layer}.{scale}"] = value
    return stored, meant, count


def test_each_format_of_the_host_is_tried(formats):
    assert set(formats.QUANT_ALGOS) <= set(SCALES)


@pytest.mark.parametrize("name", SCALES)
def test_states_are_those_of_the_numbers_that_the_weights_mean(bench, formats, name):
    if name not in formats.QUANT_ALGOS:
        pytest.skip(f"this host does not know {name}")
    folder, weights, tokenizer = bench.saved(bench.qwen)
    stored, meant, count = in_format(formats, weights, name)
    assert count >= 15
    copy = folder.with_name(f"{folder.name}-{name}")
    save_case(copy, folder.name, tokenizer)
    write_meant(copy, meant)
    clip = bench.read(host_clip(folder.name, stored, tokenizer))
    check_equal(clip, bench.ours(copy.name))
    kept = {"nvfp4": "fp4", "int8_tensorwise": "int8"}.get(name, "int4" if "w4" in name else "fp8")
    assert clip.cond_stage_model.llm.storage == kept
