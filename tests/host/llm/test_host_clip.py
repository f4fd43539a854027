"""States of LLMs of the host's own loaders, by our node. Run: see conftest.py"""

from __future__ import annotations

import pytest
from clip_kit import PROMPTS
from host_clip_kit import (
    CASES,
    CLOSE,
    Bench,
    check_equal,
    host_clip,
    in_fp8,
    layer_of,
    save_case,
    states_of,
    write_meant,
)
from tiny_llm import reference_states, relative_error

TEMPLATES = ("none", "short", "paper")


@pytest.fixture
def bench(host, pack):
    return Bench(host, pack)


@pytest.mark.parametrize("name", CASES)
def test_states_equal_our_own(bench, name):
    source = bench.theirs(name)
    for template in TEMPLATES:
        settings = {"layer": layer_of(name), "template": template}
        check_equal(bench.read(source, **settings), bench.ours(name, **settings))
    every = {"layer": "1" if name == "mistral" else "all"}
    check_equal(bench.read(source, **every), bench.ours(name, **every), PROMPTS[:1])


@pytest.mark.parametrize("name", CASES)
def test_states_equal_those_of_transformers(bench, name):
    folder, _, _ = bench.saved(name)
    clip, block = bench.read(bench.theirs(name), layer=layer_of(name)), int(layer_of(name))
    made = bench.pack.module("lidit_core.text.encoder").LLMEncoder
    encoder = made(clip.cond_stage_model.llm, "short", 96, "cpu")
    for prompt in PROMPTS:
        expected = reference_states(folder, encoder.renderer(prompt).ids)[block]
        assert relative_error(states_of(clip, prompt)[0], expected) < CLOSE


@pytest.mark.parametrize("how", ["plain", "old", "new"])
def test_weights_of_8_bits_are_run_as_they_are(bench, how):
    import comfy.utils

    if how == "new" and not hasattr(comfy.utils, "detect_layer_quantization"):
        pytest.skip("this host does not read comfy_quant")
    folder, weights, tokenizer = bench.saved(bench.qwen)
    stored, meant = in_fp8(weights, how)
    copy = folder.with_name(f"{folder.name}-{how}")
    save_case(copy, folder.name, tokenizer)
    write_meant(copy, meant)
    clip = bench.read(host_clip(folder.name, stored, tokenizer))
    check_equal(clip, bench.ours(copy.name))
    assert clip.cond_stage_model.llm.storage == "fp8"
    assert bench.read(bench.theirs(bench.qwen)).cond_stage_model.llm.storage == "float"
