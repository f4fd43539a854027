"""A CPU that has instructions for bf16 computes in it where a recipe asks.

Run: pytest tests/train/loop/test_cpu_bf16.py
"""

from __future__ import annotations

import logging

import pytest
import torch
from tiny_training import curve, make_world, run

from lidit_core.model.attention import scaled_dot_product
from lidit_train.loop.computing import cpu
from lidit_train.loop.muon import Muon, orthogonalised

KINDS = "float32", "bf16"
ASKED = {"precision": "bf16", "cpu_bf16": True}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    return folder, make_world(folder)


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_the_run_is_near_that_of_float32_and_another(world, optimiser, monkeypatch):
    folder, llms = world
    monkeypatch.setattr(cpu, "has_instructions", lambda: True)
    others = {"optimiser": {"name": optimiser, "learning_rate": 3e-3, "warmup": 2}}
    plain = run(folder, f"float32-{optimiser}", llms, **others)
    asked = run(folder, f"bf16-{optimiser}", llms, compute=ASKED, **others)
    apart = [(asked[name].float() - plain[name].float()).abs().max().item() for name in plain]
    assert 0 < max(apart) < 0.1  # a file holds bf16, in steps of 0.06 from 8 on
    losses = [[line["loss"] for line in curve(folder / f"{kind}-{optimiser}")] for kind in KINDS]
    assert losses[0] == pytest.approx(losses[1], rel=0.01) and losses[0] != losses[1]


def test_the_backward_pass_is_outside_of_autocast(world, monkeypatch):
    """What an autograd function computes in float32 stays there: a LoHa's gradients, say."""
    folder, llms = world
    backward, seen = torch.Tensor.backward, []

    def watched(self, *args, **options):
        seen.append((torch.is_autocast_enabled("cpu"), self.dtype))
        return backward(self, *args, **options)

    monkeypatch.setattr(cpu, "has_instructions", lambda: True)
    monkeypatch.setattr(torch.Tensor, "backward", watched)
    run(folder, "backwards", llms, compute=ASKED)
    assert set(seen) == {(False, torch.float32)}


def test_a_cpu_without_instructions_says_so_and_computes_in_float32(world, monkeypatch, caplog):
    folder, llms = world
    plain = run(folder, "plain", llms)
    monkeypatch.setattr(cpu, "has_instructions", lambda: False)
    with caplog.at_level(logging.WARNING):
        asked = run(folder, "without", llms, compute=ASKED)
    assert "compute.cpu_bf16 is left out: this CPU has none of avx512_bf16, amx_bf16" in caplog.text
    assert all(torch.equal(asked[name], plain[name]) for name in plain)


def test_attention_stays_in_float32():
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, length, 16) for length in (5, 7, 7))
    mask = torch.randn(2, 1, 1, 7)
    whole = scaled_dot_product(q, k, v, 4, mask)
    with torch.autocast("cpu", torch.bfloat16):
        found = scaled_dot_product(q, k, v, 4, mask.bfloat16())
        rounded = scaled_dot_product(q.bfloat16(), k.bfloat16(), v.bfloat16(), 4)
    assert found.dtype == rounded.dtype == torch.float32
    assert torch.equal(found, scaled_dot_product(q, k, v, 4, mask.bfloat16().float()))
    assert (found - whole).abs().max() < 0.02


def test_a_step_of_muon_goes_as_far_in_bf16():
    torch.manual_seed(0)
    matrices = torch.randn(3, 24, 60)
    with torch.autocast("cpu", torch.bfloat16):
        made = orthogonalised(matrices)
    values = torch.linalg.svdvals(made)
    assert made.dtype == torch.float32
    assert values.min() > 0.3 and values.max() < 1.3
    weight = torch.nn.Parameter(torch.randn(24, 60))
    weight.grad = matrices[0]
    with torch.autocast("cpu", torch.bfloat16):
        Muon([weight], lr=1e-3).step()
    assert weight.dtype == torch.float32
