"""What tells LLMs apart by their weights, and as what those are stored. Run: pytest tests/core"""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_llm import save_llm

from lidit_core.llm.fingerprint import same_llm
from lidit_core.llm.loading import load_llm, source_fingerprint, source_storage
from lidit_core.llm.locate import available, locate
from lidit_core.llm.storage import GGML, by_block, class_of, of_blocks
from lidit_core.text.spec import LLMSpec


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An LLM that was published in bfloat16, as nearly all are."""
    folder = save_llm(tmp_path_factory.mktemp("llm") / "one")
    state = load_file(folder / "model.safetensors")
    save_file({k: v.bfloat16() for k, v in state.items()}, folder / "model.safetensors")
    return folder


def changed(folder, to, how):
    """The LLM with its tensors changed, and what a fingerprint says of it."""
    shutil.copytree(folder, to)
    state = load_file(to / "model.safetensors")
    save_file(how({k: v.clone() for k, v in state.items()}), to / "model.safetensors")
    return source_fingerprint(to)


def quantised(state):
    """Eight steps of each row, as four bits have; norms are kept, as quantised files keep them."""
    for name, weight in state.items():
        if weight.ndim == 2:
            step = weight.abs().amax(1, keepdim=True) / 7
            state[name] = (weight / step).round() * step
    return state


def fine_tuned(state):
    """A thousandth of each weight moved."""
    generator = torch.Generator().manual_seed(3)
    for name, weight in state.items():
        noise = torch.randn(weight.shape, generator=generator)
        state[name] = weight + 1e-3 * weight.abs().mean() * noise
    return state


@pytest.mark.parametrize("block", [1, -3, "all"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_load_has_the_fingerprint_of_its_files(folder, block, dtype):
    loaded = load_llm(folder, block, dtype).fingerprint
    assert same_llm(loaded, source_fingerprint(folder)) is True


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_other_dtypes_are_the_same_llm(folder, tmp_path, dtype):
    there = changed(folder, tmp_path / "x", lambda s: {k: v.to(dtype) for k, v in s.items()})
    assert same_llm(there, source_fingerprint(folder)) is True


def test_a_quantised_one_is_the_same_llm(folder, tmp_path):
    there = changed(folder, tmp_path / "x", quantised)
    assert same_llm(there, source_fingerprint(folder)) is True


def test_a_fine_tuned_one_is_another(folder, tmp_path):
    there = changed(folder, tmp_path / "x", lambda s: _norms_moved(fine_tuned(s)))
    assert same_llm(there, source_fingerprint(folder)) is False


def _norms_moved(state):
    for name, weight in state.items():
        if name.endswith("norm.weight"):
            state[name] = weight * 1.01  # a step of bfloat16 or two
    return state


def test_other_embeddings_are_another(folder, tmp_path):
    def other(state):
        name = next(k for k in state if k.endswith("embed_tokens.weight"))
        state[name] = torch.randn_like(state[name])
        return state

    assert same_llm(changed(folder, tmp_path / "x", other), source_fingerprint(folder)) is False


@pytest.mark.parametrize("other", ["", "2:aa:bb", "1:aa", "1:aa:zz"])
def test_what_is_not_known_is_not_told(folder, other):
    assert same_llm(source_fingerprint(folder), other) is None


def test_of_an_llm_that_is_not_there_it_is_not_known(tmp_path):
    assert source_fingerprint("no such LLM") == ""
    assert source_fingerprint(tmp_path) == ""


@pytest.mark.parametrize(
    "kind, meant",
    [
        ("F64", "float"),
        ("BF16", "float"),
        ("F8_E4M3", "fp8"),
        ("float8_e5m2", "fp8"),
        ("I8", "int8"),
    ]
    + [("TensorCoreMXFP8Layout", "fp8"), ("TensorCoreNVFP4Layout", "fp4"), ("Q8_0", "q8")]
    + [("TensorWiseINT8Layout", "int8"), ("TensorCoreConvRotW4A4Layout", "int4"), ("Q4_1", "q4")]
    + [("AsymW4A8Int8Layout", "int4"), ("TQ1_0", "q1"), ("IQ2_XXS", "q2"), ("U8", ""), ("", "")],
)
def test_each_kind_of_numbers_has_a_class(kind, meant):
    assert class_of(kind) == meant


def test_ggmls_types_are_known_by_the_gguf_packages_numbers():
    kinds = pytest.importorskip("gguf").GGMLQuantizationType
    assert {number: kinds(number).name for number in GGML} == GGML
    assert all(class_of(kind) for kind in GGML.values())


def test_most_numbers_of_most_blocks_that_are_read_count():
    """Embeddings and norms do not, nor do a few matrices of more bits, nor blocks beyond."""
    tensors = [("token_embd.weight", (9000, 4), "q8"), ("blk.0.norm.weight", (400,), "float")]
    for block, most in enumerate(["q4", "q4", "q6", "q6", "q6"]):
        tensors.append((f"blk.{block}.up.weight", (8, 4), most))
        tensors.append((f"blk.{block}.v.weight", (4, 4), "q6"))
    classes = by_block(tensors)
    assert classes == ["q4", "q4", "q6", "q6", "q6"]
    assert (of_blocks(classes), of_blocks(classes, 3), of_blocks([], 3)) == ("q6", "q4", "")


def in_fp8(state):
    return {k: v.to(torch.float8_e4m3fn) if v.ndim == 2 else v for k, v in state.items()}


def test_a_load_knows_what_its_files_hold(folder, tmp_path):
    changed(folder, tmp_path / "x", in_fp8)
    for source, kind in ((folder, "float"), (tmp_path / "x", "fp8")):
        assert load_llm(source).storage == source_storage(source, -3) == kind
    assert source_storage("no such LLM", -3) == source_storage(tmp_path, -3) == ""


def test_another_class_of_numbers_is_told_and_what_is_not_known_is_not():
    spec = LLMSpec("one", 32, storage="float")
    told = spec.storage_note("my-one-Q4", "q4")
    assert "my-one-Q4 is stored as q4 here" in told and "load it as float" in told
    assert spec.storage_note("one", "float") == spec.storage_note("one", "") == ""
    assert LLMSpec("one", 32).storage_note("one", "q4") == ""


@pytest.mark.llm
@pytest.mark.parametrize("name, kind", [("SmolLM2-135M-Instruct", "q4"), ("gemma-3-270m", "q5")])
def test_the_demo_llms_are_told_from_their_weights_as_floats(name, kind, tmp_path):
    """A GGUF stays what it is in its copy of 16 bits. Of Gemma's Q4_K_M most matrices are Q5_0."""
    if not available(name) or not locate(name).converted:
        pytest.skip(f"{name} is not on this machine")
    assert source_storage(name, -3) == load_llm(name, 1).storage == kind
    for file in locate(name).folder.glob("*"):
        if file.suffix in (".safetensors", ".json") and file.is_file():
            (tmp_path / file.name).symlink_to(file)
    assert source_storage(tmp_path, -3) == "float"
    assert same_llm(source_fingerprint(name), source_fingerprint(tmp_path)) is True
