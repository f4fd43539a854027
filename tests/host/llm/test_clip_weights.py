"""The LLM's weights in the host's hands: paging, patches, storage. Run: see conftest.py"""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from clip_kit import (
    FAMILIES,
    PROMPT,
    PROMPTS,
    find_smollm2,
    fresh_loader,
    save_llms,
    states,
    states_now,
)
from conftest import wait_for
from tiny_llm import relative_error

LAYER = "transformer.layers.1.mlp.down_proj"


@pytest.fixture(scope="module")
def llms(host):
    return save_llms(host)


@pytest.fixture
def load(pack, llms):
    return fresh_loader(pack)


@pytest.fixture
def smollm2():
    return find_smollm2()


@pytest.fixture
def management(pack):
    """The host's memory manager."""
    from comfy import model_management

    return model_management


def offload(clip):
    """Leave every layer on the offload device, to be cast as it is used."""
    clip.patcher.detach()
    clip.patcher.load(torch.device("cpu"), lowvram_model_memory=1)
    assert clip.patcher.model.model_lowvram and clip.patcher.model.model_loaded_weight_memory == 0


def lora(clip, size=0.5):
    """A LoRA of rank 1 on one layer, in the host's own generic naming."""
    out, inner = clip.cond_stage_model.get_submodule(LAYER).weight.shape
    torch.manual_seed(0)
    name = f"text_encoders.{LAYER}"
    return {
        f"{name}.lora_up.weight": size * torch.randn(out, 1),
        f"{name}.lora_down.weight": torch.randn(1, inner),
    }


def with_lora(clip):
    from comfy.sd import load_lora_for_models

    return load_lora_for_models(None, clip, lora(clip), 0.0, 1.0)[1]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "fp8_e4m3fn"])
def test_offloaded_layers_give_equal_states(load, family, dtype):
    clip = load(family, dtype=dtype)
    expected = [states(clip, prompt) for prompt in PROMPTS]
    offload(clip)
    for prompt, before in zip(PROMPTS, expected):
        assert torch.equal(states_now(clip, prompt), before)


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


def test_the_instruction_runs_once(load, management):
    """However often the host is asked to load an LLM that is there, and once a LoRA."""
    clip = load()
    changed, prefixes = with_lora(clip), []
    for used, prompt in ((clip, "a"), (clip, "b"), (changed, "c"), (changed, "d"), (clip, "e")):
        states(used, prompt)
        (encoder,) = clip.cond_stage_model._encoders.values()
        prefixes.append(encoder._prefix)
    assert prefixes[0] is prefixes[1] and prefixes[2] is prefixes[3]
    assert len({id(prefix) for prefix in prefixes}) == 3
    assert torch.equal(prefixes[0].hidden, prefixes[4].hidden)


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


def test_apples_gpu_is_offered_no_fp8(load, kit, management, monkeypatch):
    """It ended in 'Trying to convert Float8_e4m3fn to the MPS backend', when a prompt was read."""
    apples = torch.device("mps")
    monkeypatch.setattr(management, "mac_version", lambda: (15, 0))
    monkeypatch.setattr(management, "text_encoder_device", lambda: apples)
    monkeypatch.setattr(management, "get_torch_device", lambda: apples)
    sentence = " is float8_e4m3fn, which mps devices cannot read; choose bfloat16"
    with pytest.raises(Exception, match="^dtype" + sentence):
        load(dtype="fp8_e4m3fn")
    with pytest.raises(Exception, match="^weight_dtype" + sentence):
        kit.load(weight_dtype="fp8_e4m3fn")
    assert load(dtype="fp8_e4m3fn", device="cpu")


def test_numbers_beyond_fp8_stay_finite(pack):
    layer = torch.nn.Linear(2, 1)
    layer.weight.data = torch.tensor([[1e6, -1e6]])
    pack.module("host.llm.weights").store_in_fp8(layer)
    assert layer.weight.float().tolist() == [[448.0, -448.0]]


def test_auto_is_never_half(pack, load):
    dtype = pack.module("host.llm.clip").compute_dtype
    for name in ("auto", "fp8_e4m3fn"):
        assert dtype(name, torch.device("cpu")) in (torch.float32, torch.bfloat16)
    assert states(load(dtype="auto")).dtype == dtype("auto", torch.device("cpu"))


def test_clone_is_the_same_llm(load):
    clip = load()
    copy = clip.clone()
    assert copy.cond_stage_model is clip.cond_stage_model and type(copy) is type(clip)
    assert torch.equal(states(copy), states(clip))


def test_a_node_may_exchange_the_patcher(load, management):
    """As the host's SelectCLIPDevice does, which copies the LLM for another device."""
    clip, expected = load(), states(load())
    make, arguments = clip.patcher.cached_patcher_init
    clip.cond_stage_model.get_submodule(LAYER).weight.data.zero_()
    moved = clip.clone()
    moved.patcher = make(*arguments)
    management.unload_all_models()
    assert torch.equal(states_now(moved), expected)
    assert torch.equal(states(moved, "a bee"), states(load(), "a bee"))


@pytest.mark.parametrize("offloaded", [False, True])
def test_a_lora_changes_its_clone_alone(load, offloaded):
    clip = load()
    plain, changed = states(clip), with_lora(clip)
    if offloaded:
        offload(changed)
    found = states_now(changed) if offloaded else states(changed)
    changed.patcher.detach()
    merged = load()
    up, down = lora(clip).values()
    merged.cond_stage_model.get_submodule(LAYER).weight.data += up @ down
    reference = states_now(merged)
    torch.testing.assert_close(found, reference, rtol=1e-4, atol=1e-5)
    assert relative_error(found[0], plain[0]) > 0.01
    assert torch.equal(states(clip), plain)
    assert torch.equal(states(clip, "a bee"), states(load(), "a bee"))  # weights are back as well


@pytest.mark.parametrize("scheduled", [False, True])
def test_lora_hooks_on_it(load, scheduled):
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


def test_memory_estimate_grows_with_the_prompt_up_to_the_budget(load):
    clip = load(token_budget=96)
    estimate = clip.cond_stage_model.memory_estimation_function
    short, long, longest = (
        estimate(clip.tokenize(text), device=None) for text in ("a cat", "a cat " * 9, "cat" * 999)
    )
    assert 0 < short < long < longest == estimate({}) < 1 << 30


def test_a_lora_in_bypass_mode_is_not_taken_for_the_plain_llm(load):
    """Such LoRAs are injected into the modules; the weights' own patches say nothing of them."""
    from comfy.model_patcher import PatcherInjection

    clip = load()
    plain, hooks = states(clip), []
    layer = clip.cond_stage_model.transformer.layers[0].mlp.down_proj

    def inject(patcher):
        hooks.append(layer.register_forward_hook(lambda module, inputs, out: out * 2))

    def eject(patcher):
        hooks.pop().remove()

    bypassed = clip.clone()
    bypassed.patcher.set_injections("bypass", [PatcherInjection(inject=inject, eject=eject)])
    changed = states(bypassed)
    assert not torch.allclose(changed, plain, rtol=0.01)
    assert torch.equal(states(clip), plain)
    other = "an owl that was not encoded before"
    again = states(bypassed, other)
    assert not torch.allclose(states(clip, other), again, rtol=0.01)


def test_encoding_tokens_alone_keeps_nothing(load):
    clip = load()
    clip.encode_from_tokens(clip.tokenize(PROMPT), return_pooled=True)
    assert clip.cond_stage_model.encoded is None


@pytest.mark.parametrize("other", ["Qwen2", "Gemma3Text"])
def test_a_merge_of_two_kinds_of_llm_is_refused(host, pack, load, other):
    """Their weights have the same names, and at this size the same shapes."""
    path = host.path / "comfy_extras" / "nodes_model_merging.py"
    assert wait_for(host.nodes.load_custom_node(str(path), module_parent="comfy_extras"))
    merge = host.nodes.NODE_CLASS_MAPPINGS["CLIPMergeSimple"]()
    clip, errors = load(), pack.module("lidit_core.errors")
    with pytest.raises(
        errors.LiDiTError, match="merged the LLM Llama .* in its kind, Llama"
    ) as told:
        states(merge.merge(clip, load(other), 0.5)[0])
    assert "\n" not in str(told.value)
    (same,) = merge.merge(clip, load(), 0.5)
    assert relative_error(states(same), states(clip)) < 1e-5


@pytest.fixture
def multiply(host):
    """`multiply(clip, out=3.0)`: by the host's node."""
    path = str(host.path / "comfy_extras" / "nodes_attention_multiply.py")
    assert wait_for(host.nodes.load_custom_node(path, module_parent="comfy_extras"))
    node, plain = host.nodes.NODE_CLASS_MAPPINGS["CLIPAttentionMultiply"], dict.fromkeys("qkv", 1.0)
    return lambda clip, **given: node.execute(clip, **{**plain, "out": 1.0, **given}).args[0]


MULTIPLIED = [("Llama", "out", "o_proj", False), ("Phi3", "v", "qkv_proj", True)]


@pytest.mark.parametrize("family, part, own, last", MULTIPLIED)
def test_attention_is_multiplied_by_the_names_of_a_clip(load, multiply, family, part, own, last):
    """The map behind it, and where one map makes three things each of these; merges see it once."""
    clip = load(family)
    changed, plain = multiply(clip, **{part: 3.0}), states(clip)
    drawn = states(changed)
    assert relative_error(drawn, plain) > 1e-3 and torch.equal(states(clip), plain)
    assert changed.get_key_patches().keys() == clip.cond_stage_model.state_dict().keys()
    again = load(family)
    other = again.cond_stage_model
    config = other.llm.module.config
    size = config.num_key_value_heads * config.hidden_size // config.num_attention_heads
    with torch.inference_mode():
        for name, weight in other.named_parameters():
            if f".{own}." in name:
                weight[-size if last else 0 :].mul_(3.0)
    assert relative_error(drawn, states_now(again)) < 1e-5


def test_what_a_norm_takes_away_of_a_multiplied_attention_is_told(load, multiply, caplog):
    clip = load("Gemma3Text")
    states(multiply(clip))
    assert "a node multiplies" not in caplog.text
    states(multiply(clip, q=3.0, out=3.0))
    assert "multiplies o_proj and q_proj in the attention of" in caplog.text
