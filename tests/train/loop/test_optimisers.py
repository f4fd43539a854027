"""Learning rate, average of the weights, frozen parts.

Run: pytest tests/train/loop/test_optimisers.py
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_lidit import lidit_config
from torch import nn

from lidit_core.model.config import RefinerConfig
from lidit_core.model.dit import LiDiT
from lidit_core.text.spec import LLMSpec
from lidit_train.loop.ema import EMA
from lidit_train.loop.learning_rate import decay_start, rate_factor
from lidit_train.loop.optimisers import optimisers_of
from lidit_train.recipe import SCHEDULES, Optimiser


def test_the_learning_rate_rises_stays_and_falls():
    rates = [rate_factor(step, 10, 100, 0.2) for step in range(100)]
    assert rates[0] == 0.1 and rates[10:80] == [1.0] * 70
    assert rates[-1] == 0.05 and all(a >= b for a, b in zip(rates[80:], rates[81:]))


def test_a_cosine_decay_falls_slowly_at_both_ends():
    rates = [rate_factor(step, 10, 100, 0.5, "cosine") for step in range(100)]
    assert rates[:50] == [rate_factor(step, 10, 100, 0.5) for step in range(50)]
    assert rates[75] == pytest.approx(0.5) and 0 < rates[-1] < 0.002
    falls = [a - b for a, b in zip(rates[50:], rates[51:])]
    assert min(falls) > 0 and max(falls) == pytest.approx(falls[24], rel=1e-2)
    assert falls[0] < falls[24] / 5 > falls[-1]


@pytest.mark.parametrize(("total", "decay"), [(100, 0.2), (60, 0.25), (7, 1.0), (9600, 0.55)])
def test_the_decay_starts_with_the_first_rate_that_it_lowers(total, decay):
    start = decay_start(total, decay)
    for schedule in SCHEDULES:
        rates = [rate_factor(step, 0, total, decay, schedule) for step in (start - 1, start)]
        assert rates[0] == 1 > rates[1]
    assert decay_start(total, 0) == total  # no step is lowered


def test_the_average_follows_the_weights_that_are_trained():
    model = nn.Linear(1, 1)
    model.bias.requires_grad_(False)
    nn.init.zeros_(model.weight)
    ema = EMA(model, decay=0.5)
    nn.init.ones_(model.weight)
    for expected in (1 - 2 / 11, 1 - 2 / 11 * 3 / 12):
        ema.update(model)
        assert ema.weights["weight"].item() == pytest.approx(expected)
    assert list(ema.weights) == ["weight"]
    with ema.in_place(model):
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 1


def test_a_frozen_weight_is_in_no_optimiser():
    model = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(4, 4)]), "out": nn.Linear(4, 2)})
    model["out"].requires_grad_(False)
    adamw, muon = optimisers_of(model, Optimiser(name="muon"))
    held = [p for o in (adamw, muon) for g in o.param_groups for p in g["params"]]
    assert {id(p) for p in held} == {id(p) for p in model["blocks"].parameters()}


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_states_given_beforehand_change_no_step(name):
    def stepped(forget: bool) -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(4, 4)])})
        optimisers = optimisers_of(model, Optimiser(name=name, learning_rate=0.1))
        for optimiser in optimisers:
            if forget:
                optimiser.state.clear()
        for _ in range(3):
            model["blocks"][0](torch.ones(1, 4)).square().sum().backward()
            for optimiser in optimisers:
                optimiser.step()
                optimiser.zero_grad()
        return model["blocks"][0].weight

    assert torch.equal(stepped(False), stepped(True))


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_registers_and_mixes_do_not_decay(name):
    """They lie in embeddings, and every other matrix decays or is Muon's."""
    spec = LLMSpec("x", 24, (-3, -9))
    for mix in ("linear", "routed"):
        refiner = RefinerConfig(mix=mix, registers=2)
        model = LiDiT(replace(lidit_config("x"), llms=(spec,), refiner=refiner))
        wanted = {p for n, p in model.named_parameters() if "registers" in n or ".taps." in n}
        assert len(wanted) == 2
        groups = [g for o in optimisers_of(model, Optimiser(name=name)) for g in o.param_groups]
        found = {p for g in groups if g["weight_decay"] == 0 for p in g["params"]}
        assert wanted <= found
        assert all(p in wanted or p.ndim == 1 for p in found)
