"""What tells LLMs apart by their weights. Run: pytest tests/core/llm/test_fingerprint.py"""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_llm import save_llm

from lidit_core.llm.fingerprint import same_llm
from lidit_core.llm.loading import load_llm, source_fingerprint


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
