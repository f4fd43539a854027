"""Weights are read as they are meant or refused, and no block is left out unseen.

Run: pytest tests/core/llm/test_nothing_unread.py
"""

from __future__ import annotations

import json
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_llm import chat_tokenizer, reference_states, relative_error, save_llm

from lidit_core.errors import LiDiTError
from lidit_core.llm.loading import load_llm
from lidit_core.text import chat
from lidit_core.text.encoder import LLMEncoder

PROJECTION = "model.layers.1.mlp.up_proj"  # of a block that is read
FP8 = torch.float8_e4m3fn


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_llm(tmp_path_factory.mktemp("llm") / "tiny-llama")


@pytest.fixture
def copied(llama, tmp_path):
    return shutil.copytree(llama, tmp_path / "copied")


def encoded(source, **options) -> torch.Tensor:
    llm = load_llm(source, dtype=torch.float32, **options)
    return LLMEncoder(llm, "short").encode(["two bees"]).hidden[0]


def change_tensors(folder, change) -> None:
    file = folder / "model.safetensors"
    state = load_file(file)
    change(state)
    save_file({k: v.contiguous() for k, v in state.items()}, file, metadata={"format": "pt"})


def change_config(folder, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def linears(state) -> list[str]:
    return [name[: -len(".weight")] for name in state if "_proj.weight" in name]


def marker(**fields) -> torch.Tensor:
    return torch.tensor(list(json.dumps(fields).encode()), dtype=torch.uint8)


def to_scaled(state, name: str, scale: str, kind=FP8, rows: bool = False, **fields) -> torch.Tensor:
    """Store one weight in 8 bits with a scale; returns what it then means."""
    weight = state[f"{name}.weight"].float()
    most = 127 if kind == torch.int8 else torch.finfo(kind).max
    top = weight.abs().amax(1, keepdim=True) if rows else weight.abs().amax()
    factor = top / most
    packed = weight / factor
    packed = packed.round() if kind == torch.int8 else packed
    state[f"{name}.weight"] = packed.to(kind)
    state[f"{name}.{scale}"] = factor.float()
    if fields:
        state[f"{name}.comfy_quant"] = marker(**fields)
    return packed.to(kind).float() * factor


E4M3, INT8 = {"format": "float8_e4m3fn"}, {"format": "int8_tensorwise"}


@pytest.mark.parametrize(
    ("scale", "options"),
    [
        ("weight_scale", {}),
        ("weight_scale", E4M3),
        ("weight_scale", {"format": "float8_e5m2", "kind": torch.float8_e5m2}),
        ("weight_scale_inv", {}),
        ("scale_weight", {}),
        ("weight_scale", {"rows": True}),
        ("weight_scale", {"kind": torch.int8}),
        ("weight_scale", {"kind": torch.int8, "rows": True, **INT8}),
    ],
)
def test_8_bit_weights_with_their_scales_are_what_they_mean(llama, tmp_path, scale, options):
    stored = shutil.copytree(llama, tmp_path / "stored")
    plain = shutil.copytree(llama, tmp_path / "plain")
    meant = {}

    def pack(state):
        for name in linears(state):
            meant[f"{name}.weight"] = to_scaled(state, name, scale, **options)
            state[f"{name}.input_scale"] = torch.tensor(3.0)
        if scale == "scale_weight":
            state["scaled_fp8"] = torch.zeros(2, dtype=FP8)

    change_tensors(stored, pack)
    change_tensors(plain, lambda state: state.update(meant))
    assert relative_error(encoded(stored), encoded(plain)) <= 1e-5
    assert load_llm(stored, dtype=torch.float32).module.layers[0].mlp.up_proj.weight.dtype == (
        torch.float32
    )


def test_plain_fp8_is_what_it_says(llama, tmp_path):
    stored = shutil.copytree(llama, tmp_path / "stored")
    plain = shutil.copytree(llama, tmp_path / "plain")

    def pack(state, kind):
        state.update({f"{n}.weight": state[f"{n}.weight"].to(FP8).to(kind) for n in linears(state)})

    change_tensors(stored, lambda state: pack(state, FP8))
    change_tensors(plain, lambda state: pack(state, torch.float32))
    assert torch.equal(encoded(stored), encoded(plain))


def beside(leaf: str, tensor: torch.Tensor, kind=FP8):
    def change(state):
        state[f"{PROJECTION}.weight"] = state[f"{PROJECTION}.weight"].to(kind)
        state[f"{PROJECTION}.{leaf}"] = tensor

    return change


def without_a_scale(state) -> None:
    for name in linears(state):
        to_scaled(state, name, "scale_weight")
    del state[f"{PROJECTION}.scale_weight"]
    state["scaled_fp8"] = torch.zeros(2, dtype=FP8)


ONE = torch.tensor(1.0)


@pytest.mark.parametrize(
    "change",
    [
        beside("SCB", torch.ones(48), torch.int8),
        beside("absmax", torch.ones(4), torch.uint8),
        beside("weight.absmax", torch.ones(4), torch.uint8),
        beside("weight.quant_state.bitsandbytes__nf4", torch.ones(4, dtype=torch.uint8)),
        beside("weight_zero_point", torch.zeros(1)),
        beside("qzeros", torch.zeros(1, dtype=torch.int32)),
        beside("scales", torch.ones(4)),
        beside("weight_scale", torch.ones(3, 2)),  # of blocks
        beside("weight_scale", ONE, torch.int16),
        beside("weight_scale", ONE, torch.float32),
        beside("weight_scale_2", ONE),
        beside("weight_scale", 0 * ONE),
        beside("weight_scale", float("nan") * ONE),
        beside("weight_scale", torch.ones(1, dtype=FP8)),
        beside("comfy_quant", marker(format="nvfp4")),
        beside("comfy_quant", marker(**E4M3)),  # which has no scale
        beside("comfy_quant", torch.tensor([1, 2], dtype=torch.uint8)),
        beside("other", ONE, torch.float32),
        beside("bias", torch.ones(48), torch.float32),  # which the configuration does not know
        lambda state: beside("bias", torch.ones(48), torch.int8)(state),
        lambda state: state.update({f"{PROJECTION}.weight": torch.ones(48, 32, dtype=torch.int8)}),
        lambda state: state.update({"model.layers.1.extra_norm.weight": torch.ones(32)}),
        without_a_scale,
    ],
)
def test_what_is_not_understood_is_refused(copied, change):
    change_tensors(copied, change)
    with pytest.raises(LiDiTError, match="layers.1.*; (give|expected|download)") as told:
        load_llm(copied)
    assert "\n" not in str(told.value)


def test_buffers_that_are_computed_may_lie_beside(copied, llama):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    change_tensors(copied, lambda state: state.update({name: torch.ones(4)}))
    assert torch.equal(encoded(copied), encoded(llama))


def test_experts_in_8_bits_are_refused(tmp_path):
    """Their names are converted by transformers, which would leave their scales behind."""
    sizes = {"num_experts": 4, "moe_intermediate_size": 16, "num_experts_per_tok": 2}
    folder = save_llm(tmp_path / "experts", "Qwen3Moe", **sizes)

    def pack(state):
        for name in [n for n in linears(state) if "experts" in n]:
            to_scaled(state, name, "weight_scale")

    change_tensors(folder, pack)
    with pytest.raises(LiDiTError, match="experts"):
        load_llm(folder)


def test_more_blocks_than_the_configuration_knows(copied):
    change_config(copied, num_hidden_layers=5)
    with pytest.raises(LiDiTError, match="asks for 5 blocks and its files hold 6"):
        load_llm(copied)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_attention_heads": 0},
        {"hidden_act": "unheard_of"},
        {"pad_token_id": 100_000},
        {"num_hidden_layers": 0},
        {"num_hidden_layers": "six"},
        {"num_hidden_layers": 10_000_000},
        {"num_hidden_layers": 9_000},
        {"model_type": "qwen2_5_omni", "thinker_config": {"text_config": {"n_layer": 10_000_000}}},
        {"towers": [{"vision": {"depth": 1e300}}]},
        {"text_config": 3},
        {"hidden_size": 1 << 40},
        {"vocab_size": 1 << 40},
        {"head_dim": 1 << 40},
        {"intermediate_size": -1},
        {"max_position_embeddings": 1 << 60},
        {"max_position_embeddings": "many"},
        {"rope_parameters": {"rope_type": "unheard_of", "rope_theta": 1.0}, "rope_scaling": None},
        {"rms_norm_eps": "small"},
        {"layer_types": ["full_attention"]},
    ],
)
def test_a_strange_configuration_is_one_sentence(copied, changes):
    change_config(copied, **changes)
    began = time.monotonic()
    try:
        states = encoded(copied)
    except LiDiTError as error:
        assert "\n" not in str(error)
    else:  # what has no meaning for this kind may be left alone, and then changes nothing
        assert "layer_types" in changes and states.isfinite().all()
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
@pytest.mark.parametrize("value", ["flash_attention_2", "someone/kernels", "eager"])
def test_the_file_does_not_choose_the_attention(copied, llama, key, value):
    change_config(copied, **{key: value})
    assert torch.equal(encoded(copied), encoded(llama))
    used = load_llm(copied).module.config._attn_implementation
    assert used == load_llm(llama).module.config._attn_implementation != value


def test_a_kind_whose_norm_also_comes_first(tmp_path):
    """NanoChat's final norm is that of its embeddings, so it cannot be taken out."""
    folder = save_llm(tmp_path, "NanoChat", head_dim=8)
    llm = load_llm(folder, dtype=torch.float32)
    encoder = LLMEncoder(llm, "short")
    ids = encoder.renderer("two bees").ids
    every = LLMEncoder(load_llm(folder, "all", torch.float32), "short").encode(["two bees"])
    theirs = reference_states(folder, ids)
    assert relative_error(encoder.encode(["two bees"]).hidden[0], theirs[-3]) <= 1e-5
    ours = every.hidden[0].unflatten(-1, (7, 32)).unbind(1)
    assert max(relative_error(a, b) for a, b in zip(ours[:-1], theirs[:-1])) <= 1e-5


def save_kind(folder, kind: str, **sizes):
    import transformers

    config = getattr(transformers, f"{kind}Config", None)
    if config is None:
        pytest.skip(f"this release of transformers has no {kind}")
    config = config(**sizes)
    tokenizer = chat_tokenizer()
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    names = {f"model.layers.{i}.self_attn.q_proj.weight": torch.zeros(64, 64) for i in range(4)}
    save_file(names, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    "kind",
    ["LongcatFlash", "Mllama", "T5Gemma", "Qwen2_5Omni", "Whisper", "Bart", "CLIP", "ViT", "Bert",
     "Musicgen", "Gemma3n", "Mamba", "Zamba", "Llama4", "Blip2", "Janus"],
)  # fmt: skip
def test_kinds_that_cannot_serve_end_in_one_sentence(tmp_path, kind):
    try:
        save_kind(tmp_path, kind)
    except (TypeError, ValueError):
        pytest.skip(f"no {kind} is made without more")
    with pytest.raises(LiDiTError) as told:
        load_llm(tmp_path)
    assert "\n" not in str(told.value)


def test_a_block_that_does_not_run_is_noticed(llama):
    llm = load_llm(llama, dtype=torch.float32)
    llm.module.config.num_hidden_layers = 2
    shorter = torch.nn.ModuleList(list(llm.module.layers)[:2])
    llm.module.layers = shorter
    encoder = LLMEncoder(llm, "short")
    assert encoder.encode(["a"]).hidden.isfinite().all()
    llm.module.forward = lambda **inputs: shorter[0](
        llm.module.embed_tokens(inputs["input_ids"]), position_embeddings=None
    )
    llm.module.layers[0].forward = lambda x, **_: x
    with pytest.raises(LiDiTError, match="of the 2 blocks of this LlamaModel 1 ran"):
        LLMEncoder(llm, "none", reuse=False).encode(["a"])


TEMPLATES = {
    "divides by zero": "{{ 1 // (messages | length - messages | length) }}",
    "is no template": "{% for %}",
    "adds text to numbers": "{{ 'a' + 1 }}",
    "knows no filter": "{{ messages | unheard_of }}",
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_chat_template_that_fails_is_one_sentence(llama, template):
    llm = load_llm(llama)
    llm.tokenizer.chat_template = template
    with pytest.raises(LiDiTError, match="cannot render a user turn"):
        LLMEncoder(llm, "short")


@pytest.mark.parametrize("number", ["9 ** 9 ** 9", "'a' * 10000000000", "'a'*1_000_000_000_000"])
def test_a_chat_template_does_nothing_that_no_limit_stops(llama, number):
    llm = load_llm(llama)
    own = llm.tokenizer.chat_template
    llm.tokenizer.chat_template = f"**{{{{ {number} }}}}** {own}"
    with pytest.raises(LiDiTError, match="chat template of .* computes with .* may never end"):
        LLMEncoder(llm, "short")
    llm.tokenizer.chat_template = "**10000000** {{ 2 * 3 }} " + own
    assert LLMEncoder(llm, "short").encode(["a"]).hidden.isfinite().all()


def test_a_chat_template_has_a_time_limit(llama, monkeypatch):
    monkeypatch.setattr(chat, "SECONDS", 0.5)
    llm = load_llm(llama)
    loop = "{% for i in range(99999) %}{% for i in range(99999) %}{% endfor %}{% endfor %}"
    llm.tokenizer.chat_template = loop + "{{ messages[0]['content'] }}"
    began = time.monotonic()
    with pytest.raises(LiDiTError, match="runs longer than 0.5 seconds"):
        LLMEncoder(llm, "short")
    assert time.monotonic() - began < 20
