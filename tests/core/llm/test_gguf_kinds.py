"""GGUF files of every kind give transformers' states, or are refused where they would not.

Run: pytest tests/core/llm/test_gguf_kinds.py
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

gguf = pytest.importorskip("gguf")
from tiny_gguf import gguf_tensors, plain_metadata, tiny_model, write_tiny_gguf  # noqa: E402
from tiny_llm import relative_error  # noqa: E402

from lidit_core.errors import LiDiTError  # noqa: E402
from lidit_core.llm.gguf import convert as conversion  # noqa: E402
from lidit_core.llm.loading import load_llm  # noqa: E402
from lidit_core.llm.locate import locate  # noqa: E402
from lidit_core.text.encoder import LLMEncoder  # noqa: E402

HEAD = 8
THETA = {"rope_theta": 50000.0}
ROPE = {"rope_parameters": {"rope_type": "default", **THETA}, **THETA}
TEXT = "two bees left of a red cat on a blue background, and an apple above a car"  # > a window


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIDIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def rope(**fields) -> dict:
    """A rotary embedding as releases of transformers name it before and after 5."""
    scaled = {"rope_type": "default", **THETA, **fields}
    return {"rope_parameters": scaled, "rope_scaling": fields or None, **THETA}


def local_and_global(**fields) -> dict:
    full = {"rope_type": "default", **THETA, **fields}
    local = {"rope_type": "default", "rope_theta": 10000.0}
    return {
        "rope_parameters": {"full_attention": full, "sliding_attention": local},
        "rope_scaling": fields or None, "rope_local_base_freq": 10000.0, **THETA,
        "num_hidden_layers": 9,  # of which the sixth has no window
    }  # fmt: skip


LLAMA3 = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def llama3_factors(original: int = 64) -> np.ndarray:
    """As llama.cpp's converter writes them."""
    factors = []
    for i in range(HEAD // 2):
        frequency = 1.0 / 50000.0 ** (2 * i / HEAD)
        length = 2 * np.pi / frequency
        low, high = original / LLAMA3["low_freq_factor"], original / LLAMA3["high_freq_factor"]
        smooth = (original / length - 1.0) / 3.0
        between = 1 / ((1 - smooth) / LLAMA3["factor"] + smooth)
        factors.append(1.0 if length < high else LLAMA3["factor"] if length > low else between)
    return np.array(factors, np.float32)


FACTORS = {"rope_freqs.weight": llama3_factors()}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
YARN_KEYS = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0,
             "rope.scaling.original_context_length": 32}  # fmt: skip
LINEAR = {"rope_type": "linear", "factor": 8.0}
LINEAR_KEYS = {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0}
HEADED = {"head_dim": HEAD}
GEMMA = {**HEADED, "query_pre_attn_scalar": HEAD, "sliding_window": 8}
WINDOW = {"attention.sliding_window": 8}
SCALES = {"attention_multiplier": 0.3, "embedding_multiplier": 3.0, "residual_multiplier": 0.5}
GRANITE = {"attention.scale": 0.3, "embedding_scale": 3.0, "residual_scale": 0.5,
           "logit_scale": 2.0}  # fmt: skip
# name: architecture, class, changes of its configuration, metadata, further tensors
KINDS = {
    "llama": ("llama", "Llama", ROPE, {}, {}),
    "llama with biases": ("llama", "Llama", {**ROPE, "attention_bias": True}, {}, {}),
    "llama with a head of its own": ("llama", "Llama", {**ROPE, "tie_word_embeddings": False},
                                     {}, {}),
    "llama 3.1": ("llama", "Llama", rope(rope_type="llama3", **LLAMA3,
                  original_max_position_embeddings=64), {}, FACTORS),
    "llama, yarn": ("llama", "Llama", rope(**YARN), YARN_KEYS, {}),
    "llama, linear": ("llama", "Llama", rope(**LINEAR), LINEAR_KEYS, {}),
    "mistral3": ("mistral3", "Llama", ROPE, {}, {}),
    "smollm3": ("smollm3", "SmolLM3", {**ROPE, "use_sliding_window": False}, {}, {}),
    "granite": ("granite", "Granite", {**ROPE, **SCALES}, GRANITE, {}),
    "qwen2": ("qwen2", "Qwen2", ROPE, {}, {}),
    "qwen2, yarn": ("qwen2", "Qwen2", rope(**YARN), YARN_KEYS, {}),
    "qwen2vl": ("qwen2vl", "Qwen2", ROPE, {"rope.dimension_sections": [1, 1, 2, 0]}, {}),
    "qwen3": ("qwen3", "Qwen3", {**ROPE, "head_dim": 16}, {}, {}),
    "qwen3vl": ("qwen3vl", "Qwen3", {**ROPE, **HEADED},
                {"rope.dimension_sections": [1, 1, 2, 0], "n_deepstack_layers": 3}, {}),
    "gemma2": ("gemma2", "Gemma2", {**ROPE, **GEMMA},
               {**WINDOW, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}, {}),
    "gemma2, capped": ("gemma2", "Gemma2", {**ROPE, **GEMMA, "attn_logit_softcapping": 1.0},
                       {**WINDOW, "attn_logit_softcapping": 1.0}, {}),
    "gemma3": ("gemma3", "Gemma3Text", {**local_and_global(), **GEMMA}, WINDOW, {}),
    "gemma3, linear": ("gemma3", "Gemma3Text", {**local_and_global(**LINEAR), **GEMMA},
                       {**WINDOW, **LINEAR_KEYS}, {}),
    "phi3": ("phi3", "Phi3", {**ROPE, "sliding_window": 8}, WINDOW, {}),
    "glm4": ("glm4", "Glm4", {**ROPE, **HEADED, "partial_rotary_factor": 0.5,
             "attention_bias": True}, {"rope.dimension_count": HEAD // 2}, {}),
    "olmo2": ("olmo2", "Olmo2", ROPE, {}, {}),
}  # fmt: skip


def write(path, name: str, metadata=None, tensors=None, **options):
    """Write the GGUF of a kind; returns the LLM itself."""
    architecture, family, changes, keys, more = KINDS[name]
    model = tiny_model(family, **changes)
    head = getattr(model.config, "head_dim", None) or HEAD
    said = {**plain_metadata(model.config, head), **keys, **(metadata or {})}
    values = {**gguf_tensors(model, architecture), **more, **(tensors or {})}
    values = {key: value for key, value in values.items() if value is not None}
    write_tiny_gguf(path, architecture, values, said, **options)
    return model


def states(path, block=-3):
    encoder = LLMEncoder(load_llm(path, block, torch.float32), "short")
    return encoder.encode([TEXT]).hidden[0], encoder.renderer(TEXT).ids


@torch.no_grad()
def theirs(model, ids, block=-3):
    return model(torch.tensor([ids]), output_hidden_states=True).hidden_states[block][0]


@pytest.mark.parametrize("name", KINDS)
def test_states_are_those_of_the_class(tmp_path, cache, name):
    """To what float16 leaves; the same weights rounded as the copy's give the same to 1e-5."""
    model = write(tmp_path / "tiny.gguf", name)
    ours, ids = states(tmp_path / "tiny.gguf")
    assert relative_error(ours, theirs(model, ids)) <= 2e-2
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.half().float() if weight.dim() > 1 else weight)
    assert relative_error(ours, theirs(model, ids)) <= 1e-4


@pytest.mark.parametrize("name", ["llama 3.1", "llama, yarn", "llama, linear", "gemma3, linear",
                                  "gemma2, capped", "granite"])  # fmt: skip
def test_what_is_applied_matters(tmp_path, cache, name):
    """The comparison above would find it left out."""
    model = write(tmp_path / "tiny.gguf", name)
    plain = {"gemma3, linear": "gemma3", "gemma2, capped": "gemma2"}.get(name, "llama")
    _, family, changes, *_ = KINDS[plain if name != "granite" else "granite"]
    changes = {**changes, **({"residual_multiplier": 1.0} if name == "granite" else {})}
    other = tiny_model(family, **changes)
    other.load_state_dict(model.state_dict())
    _, ids = states(tmp_path / "tiny.gguf")
    assert relative_error(theirs(other, ids), theirs(model, ids)) > 2e-2


def test_longrope_of_phi(tmp_path, cache):
    short, long = [1.0, 1.1, 1.2, 1.3], [1.0, 2.0, 3.0, 4.0]
    scaling = {"type": "longrope", "short_factor": short, "long_factor": long}
    changes = {"rope_scaling": scaling, "original_max_position_embeddings": 64, **THETA,
               "rope_parameters": {**scaling, "rope_type": "longrope", **THETA,
                                   "original_max_position_embeddings": 64}}  # fmt: skip
    KINDS["phi3, longrope"] = ("phi3", "Phi3", changes, {
        "rope.scaling.original_context_length": 64,
        "rope.scaling.attn_factor": float(np.sqrt(1 + np.log(512 / 64) / np.log(64))),
    }, {"rope_factors_long.weight": np.array(long, np.float32),
        "rope_factors_short.weight": np.array(short, np.float32)})  # fmt: skip
    try:
        model = write(tmp_path / "tiny.gguf", "phi3, longrope")
    finally:
        del KINDS["phi3, longrope"]
    ours, ids = states(tmp_path / "tiny.gguf")
    assert relative_error(ours, theirs(model, ids)) <= 2e-2


STRANGE = {
    "yarn without its length": {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0},
    "another scaling": {"rope.scaling.type": "dynamic", "rope.scaling.factor": 4.0},
    "scaled attention": {**YARN_KEYS, "rope.scaling.attn_factor": 1.5},
    "yarn's logarithm": {**YARN_KEYS, "rope.scaling.yarn_log_multiplier": 0.1},
    "a window": {"attention.sliding_window": 8},
    "a cap": {"attn_logit_softcapping": 50.0},
    "a scale": {"attention.scale": 0.5},
    "temperature": {"attention.temperature_scale": 0.1},
    "experts": {"expert_count": 8, "expert_used_count": 2},
    "not causal": {"attention.causal": False},
    "part of a head": {"rope.dimension_count": 4},
    "wider values": {"attention.value_length": 16},
    "heads that differ": {"attention.head_count_kv": [2, 2, 2, 4, 4, 4]},
    "no width": {"embedding_length": None},
    "too many blocks": {"block_count": 10_000_000},
    "too many heads": {"attention.head_count": 1 << 31},
    "what nobody knows": {"attention.unheard_of": 3},
}


@pytest.mark.parametrize("metadata", STRANGE.values(), ids=STRANGE)
def test_metadata_that_are_not_applied_are_refused(tmp_path, cache, metadata):
    write(tmp_path / "tiny.gguf", "llama", metadata)
    with pytest.raises(LiDiTError, match="tiny.gguf .*(safetensors|get it again)") as told:
        load_llm(tmp_path / "tiny.gguf")
    assert "\n" not in str(told.value)
    assert not list(cache.rglob("config.json"))


TENSORS = {
    "one lacks": {"blk.1.ffn_up.weight": None},
    "the norm lacks": {"output_norm.weight": None},
    "the embedding lacks": {"token_embd.weight": None},
    "one too many": {"blk.1.attn_sinks.weight": np.ones(4, np.float32)},
    "a bias too many": {"blk.1.ffn_up.bias": np.ones(48, np.float32)},
    "misshapen": {"blk.1.ffn_up.weight": np.ones((32, 32), np.float32)},
    "not finite": {"blk.1.ffn_up.weight": np.full((48, 32), np.nan, np.float32)},
    "whole numbers": {"blk.1.ffn_up.weight": np.ones((48, 32), np.int8)},
}


@pytest.mark.parametrize("tensors", TENSORS.values(), ids=TENSORS)
def test_tensors_are_all_there_and_all_read(tmp_path, cache, tensors):
    write(tmp_path / "tiny.gguf", "llama", tensors=tensors)
    with pytest.raises(LiDiTError, match="tiny.gguf"):
        load_llm(tmp_path / "tiny.gguf")
    assert not list(cache.rglob("config.json"))


def write_split(folder, count: int = 3):
    architecture, family, changes, *_ = KINDS["qwen2"]
    model = tiny_model(family, **changes)
    values, paths = list(gguf_tensors(model, architecture).items()), []
    for i in range(count):
        path = folder / f"tiny-Q4_0-{i + 1:05}-of-{count:05}.gguf"
        said = plain_metadata(model.config, HEAD) if i == 0 else {}
        write_tiny_gguf(path, architecture, dict(values[i::count]), said, (i, count))
        paths.append(path)
    return model, paths


def test_a_split_is_one_llm_whichever_file_is_given(tmp_path, cache):
    model, paths = write_split(tmp_path)
    ours, ids = states(paths[0])
    assert relative_error(ours, theirs(model, ids)) <= 2e-2
    assert {locate(path).folder for path in paths} == {locate(paths[0]).folder}
    assert locate(paths[2]).name == "tiny-Q4_0" and locate(tmp_path).parts == tuple(paths)


def test_a_split_that_lacks_is_named(tmp_path, cache):
    _, paths = write_split(tmp_path)
    paths[1].unlink()
    for path in (paths[0], paths[2]):
        with pytest.raises(LiDiTError, match=f"one of 3 splits .* the first {paths[1].name}"):
            load_llm(path)


def test_splits_of_which_one_is_there_twice(tmp_path, cache):
    _, paths = write_split(tmp_path)
    paths[1].write_bytes(paths[2].read_bytes())
    with pytest.raises(
        LiDiTError, match="00001-of-00003.gguf and its splits hold .* tensors twice"
    ):
        load_llm(paths[0])


def test_one_of_no_splits_is_a_file_like_any_other(tmp_path, cache):
    write(tmp_path / "tiny-00000-of-00000.gguf", "llama")
    assert load_llm(tmp_path / "tiny-00000-of-00000.gguf").name == "tiny-00000-of-00000"


@pytest.mark.parametrize("architecture", ["t5", "t5encoder", "llama4", "wan"])
def test_an_architecture_that_cannot_serve(tmp_path, cache, architecture):
    write_tiny_gguf(tmp_path / "tiny.gguf", architecture, {"x": np.ones((2, 2), np.float32)}, {})
    with pytest.raises(LiDiTError, match=f"cannot be converted .it is a {architecture}, "):
        load_llm(tmp_path / "tiny.gguf")


def test_the_copy_holds_the_whole_llm(tmp_path, cache):
    """Norm, head and last blocks are kept, for what the LLM would write next."""
    from transformers import AutoModelForCausalLM

    name = "llama with a head of its own"
    model = write(tmp_path / "tiny.gguf", name)
    load_llm(tmp_path / "tiny.gguf")
    folder = locate(tmp_path / "tiny.gguf").folder
    copy = AutoModelForCausalLM.from_pretrained(folder).float().eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        ours, real = copy(ids).logits[0], model(ids).logits[0]
    assert relative_error(ours, real) <= 2e-2


def test_in_shards_of_which_a_load_opens_all_and_reads_some(tmp_path, cache, monkeypatch):
    from lidit_core.llm.gguf import shards

    write(tmp_path / "tiny.gguf", "llama")
    whole, _ = states(tmp_path / "tiny.gguf")
    folder = locate(tmp_path / "tiny.gguf").folder
    assert (folder / "model.safetensors").is_file()
    conversion.discard(folder)
    monkeypatch.setattr(shards, "SHARD", 20_000)
    again, _ = states(tmp_path / "tiny.gguf")
    assert torch.equal(whole, again) and not (folder / "model.safetensors").exists()
    assert len(list(folder.glob("model-*.safetensors"))) > 2


WIDE = {  # by the dtype that a tensor is kept in
    "F16": np.array([1.0, 0.5, 1e-3, 3.0] * 8, np.float32),
    "BF16": np.array([2.0**20, 2.0**19, 2.0**-3, 2.0**10] * 8, np.float32),
    "F32": np.array([1.2345678e6, 3.3333e5, 1.0, 2.0] * 8, np.float32),
}


@pytest.mark.parametrize("kind", WIDE)
def test_a_tensor_is_kept_in_the_first_dtype_that_keeps_it(tmp_path, cache, kind):
    from safetensors import safe_open

    weight = np.tile(WIDE[kind], (48, 1))
    write(tmp_path / "tiny.gguf", "llama", tensors={"blk.1.ffn_up.weight": weight})
    load_llm(tmp_path / "tiny.gguf")
    name = "model.layers.1.mlp.up_proj.weight"
    with safe_open(locate(tmp_path / "tiny.gguf").folder / "model.safetensors", "pt") as file:
        assert file.get_slice(name).get_dtype() == kind
        assert torch.allclose(file.get_tensor(name).float(), torch.from_numpy(weight), rtol=6e-4)


def test_an_estimate_is_told(tmp_path, cache, caplog):
    write(tmp_path / "tiny.gguf", "llama")
    with caplog.at_level("INFO"):
        load_llm(tmp_path / "tiny.gguf")
    assert "tiny.gguf is converted to safetensors, once: 0.0 GB on disk, about 1 s" in caplog.text


def test_no_room_on_the_disk(tmp_path, cache, monkeypatch):
    write(tmp_path / "tiny.gguf", "llama")
    full = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(conversion.shutil, "disk_usage", lambda folder: full)
    with pytest.raises(LiDiTError, match="takes 0.0 GB .* make room there, or set LIDIT_CACHE"):
        load_llm(tmp_path / "tiny.gguf")
