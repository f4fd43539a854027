"""Adapters trained in each form. Run: pytest tests/train/tasks/test_adapter_forms.py"""

from __future__ import annotations

import pytest
import torch
from tiny_adapter_training import adapter_recipe, make_world, run_adapter
from tiny_llm import save_encoder
from tiny_training import curve

from lidit_core.errors import LiDiTError
from lidit_core.llmdiff.adapter import LLMDiffAdapter
from lidit_core.llmdiff.file import read_adapter_config

pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("form", ["last", "direct", "consecutive"])
@pytest.mark.parametrize("kind", ["Bert", "T5"])
def test_every_form_is_trained_on_an_encoder(world, kind, form):
    """The file says which form it has, and what it reads of which model."""
    llm = world / kind
    if not llm.exists():
        save_encoder(llm, kind)
    weights = run_adapter(world, f"{kind}-{form}", adapter={"llm": str(llm), "form": form})
    config = read_adapter_config(world / f"{kind}-{form}" / "final.safetensors")
    assert (config.form, config.llm.name, config.blocks) == (form, kind, 4)
    assert config.llm.block == (-1 if form == "last" else "differences")
    assert config.llm.width == 32 and config.llm.fingerprint
    assert ("langevin.g" in weights) == (form != "last")
    assert all(float(weights[f"layers.{n}.a2"]) != 0 for n in range(4))


def test_a_run_without_langevin_noise_leaves_its_size_alone(world):
    quiet = run_adapter(world, "quiet", adapter={"noise": False})
    noisy = run_adapter(world, "noisy")
    begun = LLMDiffAdapter(read_adapter_config(world / "quiet" / "final.safetensors"))
    size = begun.initialise().langevin.h.detach()
    assert torch.equal(quiet["langevin.h"], size.bfloat16().float())  # as what is frozen is kept
    assert not torch.equal(noisy["langevin.h"], size)
    assert not torch.equal(noisy["langevin.g"], quiet["langevin.g"])
    assert not any("langevin noise" in line for line in curve(world / "quiet"))


def test_a_form_without_noise_has_none_to_switch_off(world):
    with pytest.raises(LiDiTError, match="form=last and noise=false") as told:
        adapter_recipe(world, adapter={"form": "last", "noise": False})
    assert "\n" not in str(told.value)
