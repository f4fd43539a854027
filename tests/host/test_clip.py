"""The LLM as the host's CLIP. Run: see conftest.py"""

from __future__ import annotations

import gc
import io
import weakref

import pytest
import torch
from tiny_llm import relative_error, save_llm

from lidit_core.text import PromptEncoder, available

FAMILIES = ["Llama", "Qwen2", "Gemma3Text", "Phi3"]  # plain, biases, scaled embedding, fused
SMOLLM2 = "SmolLM2-135M-Instruct"
PROMPTS = [
    "a red cat left of two dogs",
    "",
    "两只猫和🍎",
    "(word:1.3) embedding:x BREAK <|im_end|>",
]
PROMPT = PROMPTS[0]
DEFAULTS = {
    "template": "short",
    "layer": "-3",
    "token_budget": 96,
    "dtype": "float32",
    "device": "default",
}


@pytest.fixture(scope="module")
def llms(host):
    """Tiny LLMs in the host's models/llm, one a family."""
    folder = host.base / "models" / "llm" / "tiny"
    return {family: save_llm(folder / family, family) for family in FAMILIES}


@pytest.fixture
def management(pack):
    """The host's memory manager with nothing loaded, and nothing cached by the pack."""
    from comfy import model_management

    model_management.unload_all_models()
    pack.module("lidit_core.text.cache").MEMORY.clear()
    return model_management


@pytest.fixture
def load(pack, llms, management):
    """`load(family, dtype=…)`: a CLIP from the node."""

    def loaded(family="Llama", **options):
        name = SMOLLM2 if family == SMOLLM2 else f"tiny/{family}"
        return pack.run("LiDiTLLMLoader", llm=name, **{**DEFAULTS, **options})[0]

    return loaded


@pytest.fixture
def smollm2():
    if not available(SMOLLM2):
        pytest.skip(f"{SMOLLM2} is not on this machine; get it with `lidit fetch smollm2`")
    return SMOLLM2


def states(clip, prompt=PROMPT, **options):
    """The states (1, L, C) of a prompt, as any node of the host gets them."""
    with torch.inference_mode():
        return clip.encode_from_tokens(clip.tokenize(prompt, **options))


def offload(clip):
    """Leave every layer on the offload device, to be cast as it is used."""
    clip.patcher.detach()
    clip.patcher.load(torch.device("cpu"), lowvram_model_memory=1)
    assert clip.patcher.model.model_lowvram and clip.patcher.model.model_loaded_weight_memory == 0


def lora(clip, size=0.5):
    """A LoRA of rank 1 on one layer, in the host's own generic naming."""
    layer = "transformer.layers.1.mlp.down_proj"
    out, inner = clip.cond_stage_model.get_submodule(layer).weight.shape
    torch.manual_seed(0)
    name = f"text_encoders.{layer}"
    return {
        f"{name}.lora_up.weight": size * torch.randn(out, 1),
        f"{name}.lora_down.weight": torch.randn(1, inner),
    }


def with_lora(clip):
    from comfy.sd import load_lora_for_models

    return load_lora_for_models(None, clip, lora(clip), 0.0, 1.0)[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_states_equal_the_library(pack, load, llms, family):
    clip, library = load(family), PromptEncoder(llms[family], "short", -3, 96, torch.float32)
    for prompt in PROMPTS:
        ((hidden, values),) = pack.run("LiDiTTextEncode", clip=clip, text=prompt)[0]
        expected = library.encode([prompt])
        assert torch.equal(hidden, expected.hidden)
        assert torch.equal(values["lidit_hidden"]["0"], expected.hidden)
        assert torch.equal(values["lidit_roles"]["0"], expected.roles)
        assert values["lidit_llm"] == {"0": family}


@pytest.mark.llm
def test_states_of_a_real_llm_equal_the_library(load, smollm2):
    clip, library = load(smollm2), PromptEncoder(smollm2, "short", -3, 96, torch.float32)
    for prompt in PROMPTS:
        assert torch.equal(states(clip, prompt), library.encode([prompt]).hidden)


def test_every_block(load):
    assert states(load(layer="all")).shape[2] == 7 * 32  # the embeddings and 6 blocks


def test_stock_nodes_encode_with_it(host, pack, load):
    clip = load()
    ours = pack.run("LiDiTTextEncode", clip=clip, text=PROMPT)[0]
    with torch.inference_mode():
        (stock,) = host.nodes.CLIPTextEncode().encode(clip, PROMPT)
    assert torch.equal(stock[0][0], ours[0][0]) and stock[0][1].keys() == ours[0][1].keys()
    pooled = stock[0][1]["pooled_output"]
    torch.testing.assert_close(pooled, stock[0][0].mean(1))
    assert pooled.shape == (1, 32) and pooled.dtype == torch.float32
    text = pack.module("host.conditioning").text_of(*stock[0])
    assert text.branches[0].llm == "Llama"


def test_conditioning_is_saved_without_pickles(pack, load):
    entries = pack.run("LiDiTTextEncode", clip=load(), text=PROMPT)[0]
    file = io.BytesIO()
    torch.save(entries, file)
    file.seek(0)
    ((hidden, values),) = torch.load(file, weights_only=True)
    assert torch.equal(hidden, entries[0][0]) and values["lidit_llm"] == {"0": "Llama"}


def test_conditioning_may_be_trained_on(load):
    clip = load()
    ((hidden, values),) = clip.encode_from_tokens_scheduled(clip.tokenize(PROMPT))
    with torch.inference_mode():
        ((cached, also),) = clip.encode_from_tokens_scheduled(clip.tokenize(PROMPT))
    tensors = [hidden, values["pooled_output"], cached, also["pooled_output"]]
    assert not any(tensor.is_inference() for tensor in tensors)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "fp8_e4m3fn"])
def test_offloaded_layers_give_equal_states(load, family, dtype):
    clip = load(family, dtype=dtype)
    expected = [states(clip, prompt) for prompt in PROMPTS]
    offload(clip)
    holder = clip.cond_stage_model
    for prompt, before in zip(PROMPTS, expected):
        with torch.inference_mode():  # past the cache, with the weights as they lie
            hidden = holder.encode_token_weights(clip.tokenize(prompt))[0]
        assert torch.equal(hidden, before)


def test_the_host_can_page_all_but_norms(load):
    for family in FAMILIES:
        for name, module in load(family).cond_stage_model.named_modules():
            if any(True for _ in module.parameters(recurse=False)) and "norm" not in name:
                assert module.comfy_cast_weights, name


def test_a_prompt_encoded_before_does_not_load_the_llm(load, management):
    clip = load()
    management.unload_all_models()  # the host loads at once what lies on its device already
    states(clip)
    assert [m.model for m in management.current_loaded_models] == [clip.patcher]
    management.unload_all_models()
    states(clip)
    assert management.current_loaded_models == []
    states(clip, "another prompt")
    assert len(management.current_loaded_models) == 1


def test_unloading_frees_all_that_was_computed(load, management):
    clip = load()
    states(clip)
    (encoder,) = clip.cond_stage_model._encoders.values()
    assert encoder._prefix is not None
    management.unload_all_models()
    assert encoder._prefix is None and management.current_loaded_models == []
    llm = weakref.ref(clip.cond_stage_model.transformer)
    del clip, encoder
    gc.collect()
    assert llm() is None


def test_storage_in_fp8(load, management):
    clip = load(dtype="fp8_e4m3fn")
    layers = {name: p.dtype for name, p in clip.cond_stage_model.named_parameters()}
    assert {d for n, d in layers.items() if "proj" in n} == {torch.float8_e4m3fn}
    assert {d for n, d in layers.items() if "proj" not in n} == {torch.float32}
    assert states(clip).dtype == torch.float32
    assert not torch.equal(states(clip), states(load()))  # which it must not share in the cache


@pytest.mark.llm
@pytest.mark.parametrize("dtype, most, kind", [("fp8_e4m3fn", 0.15, torch.float32),
                                               ("bfloat16", 0.06, torch.bfloat16)])  # fmt: skip
def test_smaller_dtypes_of_a_real_llm_are_close(load, smollm2, dtype, most, kind):
    small, whole = states(load(smollm2, dtype=dtype)), states(load(smollm2))
    assert small.dtype == kind and 0 < relative_error(small[0].float(), whole[0]) < most


def test_numbers_beyond_fp8_stay_finite(pack):
    layer = torch.nn.Linear(2, 1)
    layer.weight.data = torch.tensor([[1e6, -1e6]])
    pack.module("host.llm_weights").store_in_fp8(layer)
    assert layer.weight.float().tolist() == [[448.0, -448.0]]


def test_auto_is_never_half(pack, load):
    dtype = pack.module("host.clip").compute_dtype
    for name in ("auto", "fp8_e4m3fn"):
        assert dtype(name, torch.device("cpu")) in (torch.float32, torch.bfloat16)
    assert states(load(dtype="auto")).dtype == dtype("auto", torch.device("cpu"))


def test_clone_is_the_same_llm(load):
    clip = load()
    copy = clip.clone()
    assert copy.cond_stage_model is clip.cond_stage_model and type(copy) is type(clip)
    assert torch.equal(states(copy), states(clip))


@pytest.mark.parametrize("offloaded", [False, True])
def test_a_lora_changes_its_clone_alone(load, offloaded):
    clip = load()
    plain = states(clip)
    changed = with_lora(clip)
    if offloaded:
        offload(changed)
        with torch.inference_mode():
            found = changed.cond_stage_model.encode_token_weights(changed.tokenize(PROMPT))[0]
        changed.patcher.detach()
    else:
        found = states(changed)
    layer = lora(clip)
    delta = layer.popitem()[1], layer.popitem()[1]
    expected = load()
    weight = expected.cond_stage_model.transformer.layers[1].mlp.down_proj.weight
    weight.data += delta[1] @ delta[0]
    reference = expected.cond_stage_model.encode_token_weights(clip.tokenize(PROMPT))[0]
    torch.testing.assert_close(found, reference, rtol=1e-4, atol=1e-5)
    assert relative_error(found[0], plain[0]) > 0.01
    assert torch.equal(states(clip), plain)
    assert torch.equal(states(clip, "a bee"), states(load(), "a bee"))  # weights are back as well


@pytest.mark.parametrize("scheduled", [False, True])
def test_lora_hooks_on_it(host, load, scheduled):
    import comfy.hooks
    from comfy_extras.nodes_hooks import SetClipHooks

    clip = load()
    plain, expected = states(clip), states(with_lora(clip))
    hooks = comfy.hooks.create_hook_lora(lora(clip), strength_model=0.0, strength_clip=1.0)
    (hooked,) = SetClipHooks().apply_hooks(clip, scheduled, True, hooks)
    with torch.inference_mode():
        entries = hooked.encode_from_tokens_scheduled(hooked.tokenize(PROMPT))
    for hidden, values in entries:
        torch.testing.assert_close(hidden, expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(values["lidit_hidden"]["0"], hidden) and values["hooks"]
    hooked.patcher.detach()
    assert torch.equal(states(clip), plain)


def test_a_fresh_copy_for_hosts_that_ask_for_one(load):
    clip = load()
    make, arguments = clip.patcher.cached_patcher_init
    patcher = make(*arguments, disable_dynamic=True)
    assert patcher.model is not clip.cond_stage_model
    assert not patcher.is_dynamic() if hasattr(patcher, "is_dynamic") else True
    ours, theirs = clip.cond_stage_model.state_dict(), patcher.model.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_templates_on_one_llm(pack, load):
    clip = load()
    (own,) = pack.run("LiDiTInstructionTemplate", preset="none", system="", instruction="objects:")
    encoded = [
        pack.run("LiDiTTextEncode", clip=clip, text=PROMPT, template=template)
        for template in (None, own)
    ]
    lengths = [entries[0][0].shape[1] for entries, _ in encoded]
    assert lengths[1] < lengths[0]
    again = load(custom_template=own)
    assert torch.equal(states(again), encoded[1][0][0][0])
    assert len(clip.cond_stage_model._encoders) == 2


def test_a_few_templates_stay_computed(pack, load):
    clip = load()
    for number in range(7):
        text = f"objects {number}:"
        (template,) = pack.run(
            "LiDiTInstructionTemplate", preset="short", system="", instruction=text
        )
        pack.run("LiDiTTextEncode", clip=clip, text=PROMPT, template=template)
    assert len(clip.cond_stage_model._encoders) == 4


def test_info_says_how_a_prompt_was_read(pack, load):
    clip, text = load(token_budget=5), "three apples and a banana (left:1.3) of a car"
    first, second = (pack.run("LiDiTTextEncode", clip=clip, text=text)[1] for _ in range(2))
    assert "Llama, after block -3, template short" in first
    assert "5 of 5 tokens used" in first and "only the first 5 of" in first
    assert "states 32 wide, float32, computed on cpu" in first and "cached" in second
    assert "note: a weight such as (word:1.3) is read as plain text" in first


def test_weights_in_a_prompt_are_its_text(load):
    clip = load()
    assert not torch.equal(states(clip, "(cat:1.3)"), states(clip, "cat"))
    assert torch.equal(states(clip, "(cat:1.3)"), states(clip.clone(), "(cat:1.3)"))


@pytest.mark.parametrize("text", ["a cat and a dog ", "a", "猫", "(a", "🍎"])
def test_a_hundred_thousand_characters(pack, load, text):
    prompt = text * (100_000 // len(text))
    entries, info = pack.run("LiDiTTextEncode", clip=load(), text=prompt)
    assert "96 of 96 tokens used" in info and "only the first 96 of" in info
    assert entries[0][0].shape[1] < 200


def test_a_foreign_clip_is_declined(pack, host):
    import comfy.sd
    from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer
    from comfy.supported_models_base import ClipTarget

    clip = comfy.sd.CLIP(ClipTarget(SD1Tokenizer, SD1ClipModel))
    with pytest.raises(LiDiTErrorOf(pack), match="SD1ClipModel.*LI-DiT LLM loader"):
        pack.run("LiDiTTextEncode", clip=clip, text=PROMPT)


def LiDiTErrorOf(pack) -> type[Exception]:
    """The pack's own class: it is not that of `import lidit_core`."""
    return pack.module("lidit_core.errors").LiDiTError


@pytest.mark.parametrize(
    "options, message",
    [
        ({"layer": "third"}, "layer is 'third'"),
        ({"layer": "-9"}, "block -9 is not in Llama"),
        ({"token_budget": 0}, "token budget is 0"),
    ],
)
def test_wrong_options(pack, load, options, message):
    with pytest.raises(LiDiTErrorOf(pack), match=message):
        states(load(**options))


def test_last_layer_is_chosen_in_the_loader(host, pack, load):
    (clip,) = host.nodes.CLIPSetLastLayer().set_last_layer(load(), -2)
    with pytest.raises(LiDiTErrorOf(pack), match="choose the layer in the LLM loader"):
        states(clip)


def test_states_that_are_not_finite_name_the_llm(pack, load):
    clip = load()
    clip.cond_stage_model.transformer.layers[0].mlp.down_proj.weight.data.fill_(float("nan"))
    with pytest.raises(LiDiTErrorOf(pack), match="the LLM Llama gave states that are not finite"):
        states(clip)


def test_memory_estimate_grows_with_the_budget(load):
    small, large = (
        load(token_budget=n).cond_stage_model.memory_estimation_function({}, device=None)
        for n in (16, 96)
    )
    assert 0 < small < large < 1 << 30
