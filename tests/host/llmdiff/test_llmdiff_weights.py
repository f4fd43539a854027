"""Adapters and U-Nets stored in few bits, offloaded and freed. Run: see conftest.py"""

from __future__ import annotations

import pytest
import torch
from llmdiff_kit import FP8, distance

STORED = [(torch.float16, None, 0.02), (FP8, torch.float32, 0.3)]  # as, computed in, limit


@pytest.mark.parametrize("mode", ["add", "replace"])
@pytest.mark.parametrize("dtype,cast,limit", STORED)
def test_weights_in_few_bits_are_guided_alike(diff_kit, unet, trained, mode, dtype, cast, limit):
    small = diff_kit.unet(dtype=dtype, cast=cast)
    assert {p.dtype for p in small.model.diffusion_model.parameters()} == {dtype}
    prompt = diff_kit.prompt(own=diff_kit.own())
    expected = diff_kit.sample(diff_kit.apply(unet, trained, mode), prompt)
    found = diff_kit.sample(diff_kit.apply(small, trained, mode), prompt)
    assert distance(found, expected) < limit
    base = diff_kit.sample(small, prompt)
    assert distance(found, base) > 1e-3


def test_an_adapter_stored_in_float16_reads_what_float16_does_not_hold(diff_kit, unet):
    from lidit_core.llmdiff.file import read_adapter, write_adapter

    path = diff_kit.adapter("wide")
    config, weights = read_adapter(path)
    half = diff_kit.folder / "half.safetensors"
    write_adapter(half, {k: w.half() for k, w in weights.items()}, config)
    prompt = diff_kit.prompt(own=diff_kit.own())
    prompt[0][1]["llmdiff_states"]["0"] *= 1e5
    expected, found = (diff_kit.sample(diff_kit.apply(unet, p), prompt) for p in (path, half))
    assert distance(found, expected) < 5e-3


@pytest.fixture
def offloading(monkeypatch):
    """The host leaves every weight that it can where it lies, as it does when memory is short."""
    from comfy import model_management

    given = []

    def load(models, *args, **options):
        for patcher in models:
            patcher.load(torch.device("cpu"), lowvram_model_memory=1)
            given.append(patcher)

    monkeypatch.setattr(model_management, "load_models_gpu", load)
    yield given
    for patcher in given:
        patcher.detach()


def test_offloaded_weights_give_the_same(diff_kit, trained, request):
    prompt = diff_kit.prompt(own=diff_kit.own())
    models = [diff_kit.apply(diff_kit.unet(), trained, "replace") for _ in range(2)]
    expected = diff_kit.sample(models[0], prompt)
    given = request.getfixturevalue("offloading")
    assert torch.equal(diff_kit.sample(models[1], prompt), expected)
    assert "LLMDiffAdapter" in {type(patcher.model).__name__ for patcher in given}
    assert all(patcher.model.model_lowvram for patcher in given)


def test_the_weights_are_the_files_where_the_host_pages_them(diff_kit, trained, monkeypatch):
    """With dynamic VRAM the host builds layers without weights; simulated, as it needs a GPU."""
    memory = pytest.importorskip("comfy.memory_management", reason="this host has no such thing")
    from lidit_core.llmdiff.file import read_adapter

    monkeypatch.setattr(memory, "aimdo_enabled", True)
    patcher, _ = diff_kit.pack.module("host.llmdiff.adapter").open_adapter(trained)
    found, (_, expected) = patcher.model.state_dict(), read_adapter(trained)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_the_adapter_is_loaded_and_freed_by_the_host(diff_kit, unet, trained):
    from comfy import model_management as management

    management.unload_all_models()
    changed = diff_kit.apply(unet, trained)
    diff_kit.sample(changed, diff_kit.prompt())
    loaded = {type(entry.model.model).__name__ for entry in management.current_loaded_models}
    assert loaded == {"BaseModel", "LLMDiffAdapter"}
    management.unload_all_models()
    assert management.current_loaded_models == []
