"""LLMs of the host's own loaders: reuse, memory, nodes, mistakes. Run: see conftest.py"""

from __future__ import annotations

import pytest
import torch
from clip_kit import PROMPT, PROMPTS
from host_clip_kit import (
    CASES,
    CLOSE,
    Bench,
    check_equal,
    host_clip,
    in_fp8,
    spiece,
    states_of,
    tokenizer_for,
    without_head_width,
)
from tiny_llm import relative_error


@pytest.fixture
def bench(host, pack):
    return Bench(host, pack)


@pytest.fixture
def encoder_of(bench):
    """`encoder_of(clip, template, reuse=…)`: the library's encoder of the LLM in a CLIP."""
    made = bench.pack.module("lidit_core.text.encoder").LLMEncoder
    return lambda clip, template, **more: made(
        clip.cond_stage_model.llm, template, 1500, "cpu", **more
    )


@pytest.mark.parametrize("name", ["qwen3", "gemma3", "llama"])
def test_the_instruction_is_reused_and_batches_are_masked(bench, encoder_of, name):
    clip = bench.read(bench.theirs(name))
    texts = [*PROMPTS, "a cat " * 30]
    whole = encoder_of(clip, "paper", reuse=False)
    alone = [whole.encode_rows([text])[0].hidden for text in texts]
    for reuse in (False, True):
        encoder = encoder_of(clip, "paper", reuse=reuse)
        for row, expected in zip(encoder.encode_rows(texts), alone, strict=True):
            assert relative_error(row.hidden, expected) < CLOSE
        assert (encoder._prefix is not None) == (reuse and clip.cond_stage_model.llm.module.reuses)


def test_texts_longer_than_the_window(bench):
    settings = {"token_budget": 1500, "layer": "-1"}
    long = "a red cat left of two dogs " * 200
    clip = bench.read(bench.theirs("gemma3"), **settings)
    found = states_of(clip, long)
    assert found.shape[1] > 1200  # the window is of 1024 tokens
    expected = states_of(bench.ours("gemma3", **settings), long)
    assert relative_error(found, expected) < CLOSE


def test_no_weight_lies_in_memory_twice_and_unloading_frees_it(bench):
    from comfy import model_management

    source = bench.theirs(bench.qwen)
    clip = bench.read(source)
    storages = {p.data_ptr() for p in source.cond_stage_model.parameters()}
    decoder = clip.cond_stage_model.llm.module
    assert {p.data_ptr() for p in decoder.parameters()} <= storages
    states_of(clip, PROMPT)
    encoders = clip.cond_stage_model._encoders.values()
    loaded = [model.model for model in model_management.current_loaded_models]
    assert clip.patcher in loaded
    assert any(e._prefix for e in encoders) or not decoder.reuses
    model_management.unload_all_models()
    assert not model_management.current_loaded_models
    assert not any(e._prefix for e in encoders)
    states_of(clip, PROMPTS[2])  # and it is loaded again
    states_of(source_states := bench.read(source), PROMPTS[2])
    assert source_states.cond_stage_model.model is source.cond_stage_model


def test_a_cached_prompt_loads_nothing(bench):
    from comfy import model_management

    clip = bench.read(bench.theirs(bench.qwen))
    first = states_of(clip, PROMPT)
    model_management.unload_all_models()
    assert torch.equal(states_of(clip, PROMPT), first)
    assert not model_management.current_loaded_models
    assert torch.equal(states_of(clip.clone(), PROMPT), first)


def test_stock_nodes_work_on_it_and_on_its_source(host, pack, bench):
    source = bench.theirs(bench.qwen)
    before = states_of_source(source)
    clip = bench.read(source)
    entries, info = pack.run("LiDiTTextEncode", clip=clip, text=PROMPT)
    assert "template short" in info and "after block -3" in info
    with torch.inference_mode():
        (stock,) = host.nodes.CLIPTextEncode().encode(clip, PROMPT)
    assert torch.equal(stock[0][0], entries[0][0]) and "lidit_hidden" in stock[0][1]
    assert torch.equal(states_of_source(source), before)


def states_of_source(clip) -> torch.Tensor:
    """What the host's own text encoder gives of some tokens."""
    model = clip.cond_stage_model
    part = getattr(model, model.clip)
    with torch.inference_mode():
        return part.transformer.model(torch.tensor([[5, 6, 7]]), dtype=torch.float32)[0]


def test_a_lora_on_the_clip_changes_what_is_read(bench):
    source = bench.theirs(bench.qwen)
    plain, changed = bench.read(source), bench.read(source)
    key = next(k for k in changed.patcher.model.state_dict() if k.endswith("0.mlp.up_proj.weight"))
    shape = changed.patcher.model.state_dict()[key].shape
    changed = changed.clone()
    assert changed.add_patches({key: ("diff", (torch.full(shape, 0.05),))}) == [key]
    before, after = states_of(plain, PROMPT), states_of(changed, PROMPT)
    assert relative_error(after, before) > 1e-3
    assert torch.equal(states_of(plain, PROMPT), before)
    check_equal(
        plain, bench.ours(bench.qwen), PROMPTS[1:]
    )  # past the cache, without the patch again


def test_block_differences_equal_our_own(pack, bench):
    differences = pack.module("host.llmdiff.encode").read_for_adapter
    with torch.inference_mode():
        found = differences(bench.read(bench.theirs(bench.qwen), layer="all"), PROMPT)
        expected = differences(bench.ours(bench.qwen, layer="all"), PROMPT)
    assert relative_error(found.states.hidden, expected.states.hidden) < CLOSE


def test_several_layers_equal_our_own(bench):
    layers = {"layer": "-3,1,-2"}
    check_equal(bench.read(bench.theirs(bench.qwen), **layers), bench.ours(bench.qwen, **layers))


def test_weights_of_words_are_read_as_by_our_own(pack, bench):
    how = {"text": "two cats and (a dog:1.5)", "emphasis": True}
    with torch.inference_mode():
        ((_, found),), info = pack.run(
            "LiDiTTextEncode", clip=bench.read(bench.theirs(bench.qwen)), **how
        )
        ((_, expected),), _ = pack.run("LiDiTTextEncode", clip=bench.ours(bench.qwen), **how)
    assert "weights of its tokens: 1, 1.5" in info
    assert torch.equal(found["lidit_emphasis"]["0"], expected["lidit_emphasis"]["0"])


def test_lost_scales_and_lost_tensors_are_refused(bench):
    lost = bench.read(bench.theirs(bench.qwen, lambda weights: in_fp8(weights, "lost")[0]))
    with pytest.raises(bench.error, match="states of this .* are of size"):
        states_of(lost, PROMPT)

    for value in (0.0, float("nan")):  # what memory holds that nothing was read into
        with pytest.raises(bench.error, match="up_proj.weight of a block of this .* is all 0 or"):
            bench.read(bench.theirs(bench.qwen, lambda w, v=value: filled(w, v)))


def filled(weights, value):
    key = "model.layers.1.mlp.up_proj.weight"
    return {**weights, key: torch.full_like(weights[key], value)}


@pytest.mark.parametrize("memory", [0.0, 1e9, float("nan")])
def test_what_a_missing_tensor_leaves_in_memory_is_refused(bench, memory):
    """The host reads nothing into it; zeros, and numbers that no weight has, are seen."""
    source = bench.theirs(bench.qwen)
    weights = dict(source.cond_stage_model.named_parameters())
    (name,) = (name for name in weights if name.endswith("layers.1.mlp.up_proj.weight"))
    with torch.no_grad():
        weights[name].fill_(memory)
    with pytest.raises(bench.error, match="file"):
        states_of(bench.read(source), PROMPT)


def test_names(bench, caplog):
    source = bench.theirs(bench.qwen)
    told = bench.read(source).cond_stage_model.name
    assert "wide with 5 blocks" in told and "write the name" in caplog.text
    caplog.clear()
    ((_, values),) = bench.pack.run(
        "LiDiTTextEncode", clip=bench.read(source, llm_name="My-LLM"), text="a cat"
    )[0]
    assert values["lidit_llm"] == {"0": "My-LLM"}
    assert not caplog.text
    with pytest.raises(bench.error, match="which is 2560 wide with 36 blocks"):
        bench.read(source, llm_name="Qwen3-4B")


def test_released_ones_are_told_by_their_sizes(pack, bench):
    kinds = pack.module("host.llm.host_kinds")
    sizes = kinds.LLMSizes(2560, 36, 151936)
    assert kinds.told_name(kinds.QWEN, sizes) == "Qwen3-4B"
    assert kinds.told_name(kinds.QWEN_VL, sizes) == "Qwen3-VL-4B-Instruct"
    assert kinds.told_name(kinds.QWEN, kinds.LLMSizes(2560, 35, 151936)) == ""
    with pytest.raises(bench.error, match="does not run as it was trained"):
        kinds.check_name("Qwen3-4B-Instruct-2507", kinds.QWEN, sizes)
    eight = kinds.LLMSizes(4096, 32, 128256)
    with pytest.raises(bench.error, match="write its name into llm_name"):
        kinds.check_name("", kinds.LLAMA, eight)
    with pytest.raises(bench.error, match="does not run as it was trained"):
        kinds.check_name("Llama-3.1-8B-Instruct", kinds.LLAMA, eight)
    kinds.check_name("Meta-Llama-3-8B-Instruct", kinds.LLAMA, eight)


def test_the_first_blocks_of_a_whole_are_not_counted_from_its_end(bench):
    source = bench.theirs("mistral")
    with pytest.raises(bench.error, match="layer -3 is block 38 of .* its first 4 blocks alone"):
        bench.read(source)
    assert bench.read(source, layer="-37").cond_stage_model.llm.blocks == 4


def test_what_is_no_llm_is_refused(pack, bench, host):
    import comfy.text_encoders.llama as llama

    clip = bench.read(bench.theirs(bench.qwen))
    with pytest.raises(bench.error, match="is read as an LLM already"):
        bench.read(clip)
    if hasattr(clip, "generate"):  # older hosts write no text
        with pytest.raises(bench.error, match="writes no text"):
            clip.generate(clip.tokenize(PROMPT))
    with pytest.raises(bench.error, match="expected one of ComfyUI's loaders"):
        bench.read(object())
    with pytest.raises(bench.error, match="choose the layer in LI-DiT LLM from CLIP"):
        (cut,) = host.nodes.CLIPSetLastLayer().set_last_layer(clip, -2)
        states_of(cut, PROMPT)
    kind_of = pack.module("host.llm.host_kinds").kind_of
    for name in ("Gemma2_2B", "Ministral3_3B"):
        if hasattr(llama, name):
            with pytest.raises(bench.error, match="ComfyUI runs (Gemma 2|Ministral 3) without"):
                kind_of(object.__new__(getattr(llama, name)))


def test_a_clip_without_an_llm_is_refused(bench):
    import comfy.sd
    from comfy import sd1_clip
    from comfy.supported_models_base import ClipTarget

    small = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2}
    options = {"clip_l_model_config": {**small, "num_hidden_layers": 2}}
    target = ClipTarget(sd1_clip.SD1Tokenizer, sd1_clip.SD1ClipModel)
    with pytest.raises(bench.error, match="holds SD1ClipModel with 0 LLMs"):
        bench.read(comfy.sd.CLIP(target, model_options=options))


def test_an_llm_beside_another_text_encoder_is_read_alone(bench):
    """As DualCLIPLoader gives HunyuanVideo's: CLIP-L and Llama."""
    import comfy.sd
    from comfy.supported_models_base import ClipTarget
    from comfy.text_encoders.hunyuan_video import HunyuanVideoClipModel

    _, weights, _ = bench.saved("llama")
    alone = bench.theirs("llama")
    rows = weights["model.embed_tokens.weight"].shape[0]
    small = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2}
    options = {
        "clip_l_model_config": {**small, "num_hidden_layers": 2},
        "llama_model_config": without_head_width({**CASES["llama"].sizes, "vocab_size": rows}),
    }
    target = ClipTarget(lambda **_: alone.tokenizer, HunyuanVideoClipModel)
    both = comfy.sd.CLIP(target, model_options=options)
    both.cond_stage_model.llama.load_sd(weights)
    check_equal(bench.read(both), bench.ours("llama"))
    storages = {p.data_ptr() for p in both.cond_stage_model.llama.parameters()}
    decoder = bench.read(both).cond_stage_model.llm.module
    assert {p.data_ptr() for p in decoder.parameters()} <= storages


def test_tokens_that_the_llm_does_not_have(bench):
    _, weights, _ = bench.saved(bench.qwen)
    clip = bench.read(
        host_clip(bench.qwen, weights)
    )  # with the host's own tokenizer, of 151669 tokens
    with pytest.raises(bench.error, match="gives token 15.* and its LLM has 420"):
        states_of(clip, PROMPT)


def test_a_sentencepiece_tokenizer_is_read_as_it_reads(pack):
    from sentencepiece import SentencePieceProcessor

    theirs = SentencePieceProcessor(model_proto=spiece().numpy().tobytes())
    ours = tokenizer_for(pack, "gemma3")
    texts = [*PROMPTS[:3], "two  blanks", "a\n\nb", "é 🍎 x", "Describe the image: a car."]
    for text in texts:
        found = ours(text, add_special_tokens=False, return_offsets_mapping=True)
        assert found["input_ids"] == theirs.encode(text)
        assert found["offset_mapping"][-1:] in ([], [(len(text) - 1, len(text))]) or (
            found["offset_mapping"][-1][1] == len(text)
        )
    marked = ours("<start_of_turn>user", add_special_tokens=False)["input_ids"]
    assert marked[0] == theirs.piece_to_id("<start_of_turn>")
    assert ours("a")["input_ids"][0] == theirs.bos_id()


@pytest.mark.parametrize("name", ["qwen25_tokenizer", "llama_tokenizer"])
def test_chat_templates_render_as_the_llms_own(pack, host, name):
    import json

    kinds, chat = pack.module("host.llm.host_kinds"), pack.module("lidit_core.text.chat")
    file = host.path / "comfy" / "text_encoders" / name / "tokenizer_config.json"
    theirs = json.loads(file.read_text())["chat_template"]
    ours = kinds.QWEN25 if name.startswith("qwen") else kinds.LLAMA3
    answer = "<|start_header_id|>assistant<|end_header_id|>\n\n"  # which LLaVA's always asks for
    for system in ("", "Be brief."):
        texts = []
        for template in (theirs, ours):
            tokenizer = tokenizer_for(pack, "qwen3")
            tokenizer.bos_token, tokenizer.chat_template = "<|endoftext|>", template
            texts.append(chat.render_chat(tokenizer, system, " a cat "))
        assert texts[0].removesuffix(answer) == texts[1]


def test_chat_templates_are_those_that_were_published(pack):
    kinds, chat = pack.module("host.llm.host_kinds"), pack.module("lidit_core.text.chat")
    turn = "<|im_start|>user\na cat<|im_end|>\n"
    expected = {
        kinds.QWEN3: (turn, f"<|im_start|>system\nS<|im_end|>\n{turn}"),
        kinds.QWEN25: (
            f"<|im_start|>system\n<|im_end|>\n{turn}",
            f"<|im_start|>system\nS<|im_end|>\n{turn}",
        ),
        kinds.GEMMA3: (
            "<bos><start_of_turn>user\na cat<end_of_turn>\n",
            "<bos><start_of_turn>user\nS\n\na cat<end_of_turn>\n",
        ),
        kinds.MISTRAL3: (
            "<bos>[SYSTEM_PROMPT][/SYSTEM_PROMPT][INST]a cat[/INST]",
            "<bos>[SYSTEM_PROMPT]S[/SYSTEM_PROMPT][INST]a cat[/INST]",
        ),
    }
    for template, texts in expected.items():
        tokenizer = tokenizer_for(pack, "qwen3")
        tokenizer.bos_token, tokenizer.chat_template = "<bos>", template
        assert tuple(chat.render_chat(tokenizer, s, "a cat") for s in ("", "S")) == texts
