"""GGUF files of the kinds that transformers reads itself.

The tensors are laid down as llama.cpp's converter does; the states are compared with the class's.

Run: pytest tests/core/llm/test_gguf_foreign.py
"""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

gguf = pytest.importorskip("gguf")
from tiny_gguf import plain_metadata, tiny_model, write_tiny_gguf  # noqa: E402
from tiny_llm import relative_error  # noqa: E402

from lidit_core.errors import LiDiTError  # noqa: E402
from lidit_core.llm.decoder.build import decoder_blocks  # noqa: E402
from lidit_core.llm.gguf.foreign import FOREIGN  # noqa: E402
from lidit_core.llm.loading import load_llm  # noqa: E402
from lidit_core.text.encoder import LLMEncoder  # noqa: E402
from lidit_core.text.outputs import first_tensor  # noqa: E402

TEXT = "two bees left of a red cat on a blue background, and an apple above a car"
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 768}
SHARED = {**EXPERTS, "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632}
NORM, RMS = "attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon"
EPSILONS = ("rms_norm_eps", "norm_eps", "layer_norm_epsilon", "layer_norm_eps", "norm_epsilon")
SIZES = {"intermediate_size": 128, "num_key_value_heads": 4, "num_attention_heads": 4,
         "max_position_embeddings": 512}  # fmt: skip
EXPERT_KEYS = {"expert_count": 4, "expert_used_count": 2}
BASE = {"rope.freq_base": 50000.0}
THETA = {"rope_theta": 50000.0, "rope_parameters": {"rope_type": "default", "rope_theta": 50000.0}}
# name in the file: class, changes of its configuration, metadata beside the plain ones
KINDS = {
    "bloom": ("Bloom", {}, {}),
    "falcon": ("Falcon", THETA, {"attention.head_count_kv": 1, **BASE}),
    "gpt2": ("GPT2", {"max_position_embeddings": 1024}, {"context_length": 1024}),
    "lfm2": ("Lfm2", THETA, {"attention.head_count_kv": [0, 2] * 3, "shortconv.l_cache": 3,
                             **BASE}),
    "mamba": ("Mamba", {}, {"ssm.conv_kernel": 4, "ssm.state_size": 16, "ssm.time_step_rank": 2,
                            "ssm.inner_size": 48, "rope.dimension_count": None}),
    "nemotron": ("Nemotron", {**THETA, "partial_rotary_factor": 0.5},
                 {"rope.dimension_count": 4, **BASE}),
    "qwen2moe": ("Qwen2Moe", {**THETA, **SHARED}, {**EXPERT_KEYS, **BASE}),
    "qwen3moe": ("Qwen3Moe", {**THETA, **EXPERTS, "norm_topk_prob": True, "head_dim": 8},
                 {**EXPERT_KEYS, **BASE}),
    "stablelm": ("StableLm", {"partial_rotary_factor": 0.25}, {"rope.dimension_count": 2}),
}  # fmt: skip


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIDIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def laid_down(model, architecture: str) -> dict[str, np.ndarray]:
    """The LLM's tensors as llama.cpp's converter lays them down."""
    kind = next(a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(kind, model.config.num_hidden_layers)
    tensors: dict[str, np.ndarray] = {}
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        layer, _, leaf = name.rpartition(".")
        part = names.get_name(layer) or names.get_name(name.removeprefix("transformer."))
        part = part or names.get_name(layer.removeprefix("transformer."))
        if name.endswith("experts.gate_up_proj"):
            block = name.split(".")[2]
            for half, key in zip(value.chunk(2, 1), ("gate", "up")):
                tensors[f"blk.{block}.ffn_{key}_exps.weight"] = half.numpy()
            continue
        bare = not name.endswith((".weight", ".bias"))
        part = names.get_name(name) if bare else part
        leaf = ("weight" if "experts" in name else "") if bare else leaf
        tensors[f"{part}.{leaf}".rstrip(".")] = changed(value, name, architecture, model).numpy()
    return tensors


def changed(value, name: str, architecture: str, model):
    """What the converter does to the numbers of one tensor."""
    if architecture == "gpt2" and value.ndim == 2 and ".h." in name:
        return value.t().contiguous()
    if architecture == "bloom" and "query_key_value" in name:
        heads = model.config.n_head
        return value.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)
    if architecture == "nemotron" and name.endswith("norm.weight"):
        return value + 1
    if architecture == "nemotron" and "layernorm.weight" in name:
        return value + 1
    if name.endswith("A_log"):
        return -torch.exp(value)
    if name.endswith(("conv1d.weight", "conv.conv.weight", "shared_expert_gate.weight")):
        return value.squeeze(1 if "conv" in name else 0)
    return value


def write(path, architecture: str, metadata=None, change=dict):
    family, changes, keys = KINDS[architecture]
    model = tiny_model(family, **changes)
    with torch.no_grad():
        for weight in model.parameters():  # to numbers that float16 keeps
            weight.copy_(weight.half().float())
    said = sizes_of(model.config) | keys | (metadata or {})
    write_tiny_gguf(path, architecture, change(laid_down(model, architecture)), said)
    return model


def sizes_of(config) -> dict:
    known = {k: getattr(config, k, None) or v for k, v in SIZES.items()}
    known |= {k: getattr(config, k) for k in ("hidden_size", "num_hidden_layers", "vocab_size")}
    known["rms_norm_eps"] = None
    said = plain_metadata(type("Sizes", (), known), 8)
    said["rope.freq_base"] = None  # the class's own, where `KINDS` does not say it
    name, epsilon = next((k, getattr(config, k)) for k in EPSILONS if hasattr(config, k))
    mean = name == "rms_norm_eps" or config.model_type in ("lfm2", "mamba")
    return said | {RMS if mean else NORM: epsilon}


@pytest.mark.parametrize("architecture", KINDS)
def test_states_are_those_of_the_class(tmp_path, cache, architecture):
    assert architecture in FOREIGN
    model = write(tmp_path / "tiny.gguf", architecture)
    encoder = LLMEncoder(load_llm(tmp_path / "tiny.gguf", -3, torch.float32), "short")
    ids = torch.tensor([encoder.renderer(TEXT).ids])
    kept: list[torch.Tensor] = []  # by a hook: some list states from the first block's on
    block = decoder_blocks(model.base_model)[-3]
    block.register_forward_hook(lambda module, args, out: kept.append(first_tensor(out)))
    with torch.no_grad():
        model(ids)
    theirs = kept[0][0]
    assert relative_error(encoder.encode([TEXT]).hidden[0], theirs) <= 1e-3


def test_an_epsilon_that_is_not_applied_is_refused(tmp_path, cache):
    write(tmp_path / "tiny.gguf", "falcon", {NORM: 0.25})
    with pytest.raises(LiDiTError, match=r"tiny.gguf has norms with an epsilon of .0.25. and its"):
        load_llm(tmp_path / "tiny.gguf")


def without(key: str):
    return lambda tensors: {k: v for k, v in tensors.items() if k != key}


def with_one_more(tensors):
    return {**tensors, "blk.1.attn_sinks.weight": np.ones(8, np.float32)}


def alone(tensors):
    return {"x": np.ones((2, 2), np.float32)}


@pytest.mark.parametrize("architecture", KINDS)
@pytest.mark.parametrize(
    "metadata, change",
    [
        ({"block_count": 10_000_000}, dict),
        ({"embedding_length": 1 << 30}, dict),
        ({"block_count": None}, dict),
        ({"embedding_length": None}, dict),
        ({}, without("token_embd.weight")),
        ({}, with_one_more),
        ({}, alone),
    ],
)
def test_metadata_and_tensors_of_one_llm(tmp_path, cache, architecture, metadata, change):
    """transformers would make the LLM of its class's own sizes, and drop what it does not know."""
    write(tmp_path / "tiny.gguf", architecture, metadata, change)
    began = time.monotonic()
    with pytest.raises(LiDiTError, match="tiny.gguf") as told:
        load_llm(tmp_path / "tiny.gguf")
    assert "\n" not in str(told.value) and time.monotonic() - began < 20
    assert not list(cache.rglob("config.json"))
