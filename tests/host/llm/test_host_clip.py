"""LLMs of the host's own loaders, read as ours are. Run: see conftest.py"""

from __future__ import annotations

import pytest
import torch
from clip_kit import DEFAULTS, PROMPTS
from host_clip_kit import (
    CASES,
    host_clip,
    in_fp8,
    save_case,
    tokenizer_for,
    weights_of,
    write_meant,
)
from tiny_llm import reference_states, relative_error

CLOSE = 1e-5  # of a token's state, relative
SETTINGS = {"template": "short", "layer": "-3", "token_budget": 96, "llm_name": ""}
TEMPLATES = ("none", "short", "paper")


@pytest.fixture(scope="module")
def kinds(pack):
    """The kinds that this host has."""
    import comfy.text_encoders.llama as llama

    classes = {"qwen3": "Qwen3_06B", "mistral": "Mistral3Small24B", "gemma3": "Gemma3_4B"}
    return [name for name in CASES if hasattr(llama, classes.get(name, "Llama2"))]


@pytest.fixture(scope="module")
def saved(host, pack, kinds):
    """`saved(kind)`: one LLM of it in the host's models/llm, its weights, and its tokenizer."""

    def save(name):
        if name not in kinds:
            pytest.skip(f"this host does not run {name}")
        folder = host.base / "models" / "llm" / "hosted" / name
        tokenizer = tokenizer_for(pack, name)
        if not folder.is_dir():
            save_case(folder, name, tokenizer)
        return folder, weights_of(folder), tokenizer

    return save


@pytest.fixture(autouse=True)
def fresh(pack):
    from comfy import model_management

    model_management.unload_all_models()
    pack.module("lidit_core.text.cache").MEMORY.clear()


@pytest.fixture
def error(pack):
    return pack.module("lidit_core.errors").LiDiTError


@pytest.fixture
def read(pack):
    """`read(clip, layer=…)`: the CLIP of our node."""

    def run(clip, **settings):
        return pack.run("LiDiTLLMFromCLIP", clip=clip, **{**SETTINGS, **settings})[0]

    return run


@pytest.fixture
def ours(pack):
    """`ours(name, layer=…)`: the same LLM by our own loader, in float32."""

    def load(name, **settings):
        return pack.run("LiDiTLLMLoader", llm=name, **{**DEFAULTS, **settings})[0]

    return load


def states(clip, prompt):
    with torch.inference_mode():
        return clip.encode_from_tokens(clip.tokenize(prompt))


def check_equal(clip, reference, prompts=PROMPTS):
    for prompt in prompts:
        found, expected = states(clip, prompt), states(reference, prompt)
        assert found.shape == expected.shape
        assert relative_error(found, expected) < CLOSE, prompt


def layer_of(name):
    """The host takes a Mistral as narrow as this one for the first blocks of the whole."""
    return "2" if name == "mistral" else "-3"


@pytest.mark.parametrize("name", CASES)
def test_states_equal_our_own(saved, read, ours, name):
    _, weights, tokenizer = saved(name)
    source = host_clip(name, weights, tokenizer)
    for template in TEMPLATES:
        settings = {"layer": layer_of(name), "template": template}
        check_equal(read(source, **settings), ours(f"hosted/{name}", **settings))
    every = {"layer": "1" if name == "mistral" else "all"}
    check_equal(read(source, **every), ours(f"hosted/{name}", **every), PROMPTS[:1])


@pytest.mark.parametrize("name", CASES)
def test_states_equal_those_of_transformers(pack, saved, read, name):
    folder, weights, tokenizer = saved(name)
    clip = read(host_clip(name, weights, tokenizer), layer=layer_of(name))
    reader, block = clip.cond_stage_model, int(layer_of(name))
    encoder = pack.module("lidit_core.text.encoder").LLMEncoder(reader.llm, "short", 96, "cpu")
    for prompt in PROMPTS:
        expected = reference_states(folder, encoder.renderer(prompt).ids)[block]
        assert relative_error(states(clip, prompt)[0], expected) < CLOSE


@pytest.mark.parametrize("how", ["plain", "old", "new"])
def test_weights_of_8_bits_are_run_as_they_are(host, saved, read, ours, how):
    import comfy.utils

    if how == "new" and not hasattr(comfy.utils, "detect_layer_quantization"):
        pytest.skip("this host does not read comfy_quant")
    folder, weights, tokenizer = saved("qwen3")
    stored, meant = in_fp8(weights, how)
    copy = folder.with_name(f"qwen3-{how}")
    save_case(copy, "qwen3", tokenizer)
    write_meant(copy, meant)
    clip = read(host_clip("qwen3", stored, tokenizer))
    check_equal(clip, ours(f"hosted/qwen3-{how}"))
