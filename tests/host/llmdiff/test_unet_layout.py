"""Our names, shapes and layers of a U-Net against the host's own UNetModel.

What diffusers predicts is compared where LIDIT_TRAINING_PYTHON is a Python that has diffusers.
"""

from __future__ import annotations

import importlib
import os
import subprocess
from pathlib import Path

import pytest
import torch
from tiny_unet import TINY, random_inputs

from lidit_core.io.tensors import read_safetensors
from lidit_core.unet.families import FAMILIES, cross_attention_layers, host_config
from lidit_core.unet.shape import read_shape, unet_shape
from lidit_train.tasks.adapter.unet_names import names

SHAPES = {**FAMILIES, **{f"tiny {name}": shape for name, shape in TINY.items()}}
PYTHON = os.environ.get("LIDIT_TRAINING_PYTHON")


@pytest.fixture
def build(host):
    """The host's UNetModel of a shape."""
    model = importlib.import_module("comfy.ldm.modules.diffusionmodules.openaimodel").UNetModel
    operations = importlib.import_module("comfy.ops").manual_cast
    return lambda shape, device: model(
        **host_config(shape), dtype=torch.float32, device=device, operations=operations
    )


@pytest.mark.parametrize("name", SHAPES)
def test_the_host_has_the_same_tensors(build, name):
    shape = SHAPES[name]
    found = {k: tuple(v.shape) for k, v in build(shape, "meta").state_dict().items()}
    assert sorted(found) == sorted(names(shape))
    heads = [shape.heads(level) for level in shape.levels]
    assert unet_shape(found, {"attention_head_dim": heads}) == shape


@pytest.mark.parametrize("name", SHAPES)
def test_the_host_has_the_same_names_of_diffusers(host, name):
    theirs = importlib.import_module("comfy.utils").unet_to_diffusers(host_config(SHAPES[name]))
    ours = names(SHAPES[name])
    assert {diffusers: theirs[diffusers] for diffusers in ours.values()} == {
        diffusers: ldm for ldm, diffusers in ours.items()
    }


@pytest.mark.parametrize("name", FAMILIES)
def test_the_host_takes_a_family_for_itself(build, name):
    """What it reads off the tensors is what we would build it with."""
    detect = importlib.import_module("comfy.model_detection").detect_unet_config
    found = detect(build(FAMILIES[name], "meta").state_dict(), "")
    expected = host_config(FAMILIES[name])
    assert {key: found[key] for key in expected.keys() & found.keys()} == {
        key: expected[key] for key in expected.keys() & found.keys()
    }


def inputs_of(known: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What the host's model is fed, by its own names."""
    fed = {"sample": "x", "timestep": "timesteps", "encoder_hidden_states": "context", "y": "y"}
    return {theirs: known[ours] for ours, theirs in fed.items() if ours in known}


@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_layers_are_called_in_our_order(build, name):
    shape, called = TINY[name], []

    def note(n, context, value, options):
        at = (options["block"], options["block_index"], n.shape[-1], options["n_heads"])
        called.append(at)
        return n, context, value

    model = build(shape, "cpu")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    inputs = inputs_of(random_inputs(shape)) | (
        {"y": torch.zeros(2, shape.adm)} if shape.adm else {}
    )
    model(**inputs, transformer_options={"patches": {"attn2_patch": [note]}})
    layers = cross_attention_layers(shape)
    assert called == [(layer.block, layer.index, layer.width, layer.heads) for layer in layers]
    own = dict(model.named_modules())
    assert all(own[layer.name].attn2.heads == layer.heads for layer in layers)


@pytest.mark.skipif(not PYTHON, reason="needs LIDIT_TRAINING_PYTHON: a Python with diffusers")
@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_the_host_predicts_what_diffusers_does(build, name, tmp_path):
    script = Path(__file__).parents[1] / "kit" / "unet_reference.py"
    subprocess.run([PYTHON, script, name, tmp_path], check=True, timeout=300)
    tensors, metadata = read_safetensors(tmp_path / "unet.safetensors")
    known, _ = read_safetensors(tmp_path / "known.safetensors")
    model = build(read_shape(tmp_path / "unet.safetensors"), "cpu")
    model.load_state_dict({k.removeprefix("model.diffusion_model."): v for k, v in tensors.items()})
    predicted = model(**inputs_of(known))
    assert known["expected"].std() > 0.01
    torch.testing.assert_close(predicted, known["expected"], atol=1e-4, rtol=0)
