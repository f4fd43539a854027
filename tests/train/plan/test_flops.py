"""Operations that a plan counts against those of real runs.

Run: pytest tests/train/plan/test_flops.py
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
import torch
from processes import together
from real_cost import real_cost
from tiny_lidit import random_lidit, random_noise, random_states
from tiny_training import adapted
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from lidit_core.model.config import RefinerConfig
from lidit_core.model.presets import find_preset
from lidit_train.data.token_guess import TextTokens
from lidit_train.loop.muon import Muon
from lidit_train.plan.counting import Cost
from lidit_train.plan.workload import SampleTokens, image_tokens
from lidit_train.recipe import LORA_KINDS, Lora
from lidit_train.tasks.lidit.plan.cost import (
    content_cost,
    model_cost,
    muon_flops,
    orthogonalising_flops,
)
from lidit_train.tasks.lidit.trained import everything, refiners_of, with_lora

BATCH, INSTRUCTION, DEPTH = 3, 2, 4
READ = (7, 12)  # tokens of the two branches


def sizes_of(config, branches=(0, 1)) -> SampleTokens:
    text = {i: TextTokens(READ[i], READ[i] - INSTRUCTION) for i in branches}
    return SampleTokens(image_tokens(config.patch * config.latent.downsampling, 48, 80), text)


def real(model, branches=(0, 1), checkpointing=False) -> Cost:
    text = {i: random_states(*[READ[i]] * BATCH, instruction=INSTRUCTION) for i in branches}
    again = {"run_block": lambda _, block, *rest: checkpoint(block, *rest, use_reentrant=False)}
    options = again if checkpointing else {}
    x, t = random_noise(BATCH, 10, 6), torch.full((BATCH,), 500.0)
    return real_cost(lambda: model(x, t, text, **options), model.parameters())


@pytest.mark.parametrize(
    ("branches", "changes"),
    [
        ((0, 1), {}),
        ((1,), {}),
        ((0,), {"gated": False}),
        ((0, 1), {"fusion": "concatenation", "blocks": 0}),
        ((0, 1), {"entry_norm": False, "gated": False}),
    ],
)
def test_forward_and_training_are_what_a_run_takes(branches, changes):
    model = random_lidit(refiner=RefinerConfig(**changes), depth=DEPTH)
    cost = model_cost(model.config, sizes_of(model.config, branches))
    run = real(model, branches)
    assert run.forward == BATCH * cost.whole.forward
    assert run.forward + run.backward == BATCH * cost.training(checkpointing=False)


KINDS = [with_lora(Lora(4, layers=("blocks.2",), kind=kind)) for kind in LORA_KINDS]


@pytest.mark.parametrize("trained", [everything(), refiners_of((0, 1)), *KINDS])
def test_checkpointing_runs_the_blocks_again(trained):
    model = adapted(random_lidit(depth=DEPTH), trained)
    cost = model_cost(model.config, sizes_of(model.config), trained)
    run = real(model, checkpointing=True)
    once = cost.once.training(checkpointing=True) if cost.once else 0
    assert run.forward + run.backward == BATCH * cost.training(checkpointing=True) + once


@pytest.mark.parametrize("fresh", [(0,), (0, 1)])
def test_a_frozen_transformer_passes_gradients_on_without_making_its_own(fresh):
    trained = refiners_of(fresh)
    model = adapted(random_lidit(depth=DEPTH), trained)
    cost = model_cost(model.config, sizes_of(model.config), trained)
    assert real(model).backward == BATCH * cost.whole.backward
    all_learn = model_cost(model.config, sizes_of(model.config))
    assert cost.training(False) < 0.8 * all_learn.training(False)


LORAS = [("blocks",), ("blocks", "text_side"), ("blocks.1",), ("blocks.0.mlp", "blocks.3")]


@pytest.mark.parametrize("kind", LORA_KINDS)
@pytest.mark.parametrize("layers", LORAS)
def test_a_lora_costs_its_own_products_and_the_gradients_through_the_rest(layers, kind):
    trained = with_lora(Lora(rank=4, layers=layers, kind=kind))
    model = adapted(random_lidit(depth=6), trained)
    cost = model_cost(model.config, sizes_of(model.config), trained)
    run, once = real(model), cost.once.whole if cost.once else Cost()
    assert run.forward == BATCH * cost.whole.forward + once.forward
    assert run.backward == BATCH * cost.whole.backward + once.backward


def test_the_map_that_learns_content_is_what_a_run_takes():
    names, x = nn.Linear(8, 5), torch.randn(BATCH * 6, 8, requires_grad=True)
    shown = torch.zeros(BATCH * 6, dtype=torch.long)
    run = real_cost(lambda: nn.functional.cross_entropy(names(x), shown), names.parameters())
    cost = BATCH * content_cost(8, 6, 5)
    assert (run.forward, run.backward) == (cost.forward, cost.backward)


def test_muon_is_what_torch_counts():
    model = random_lidit()
    matrices = [p for name, p in model.named_parameters() if p.ndim > 1 and "blocks." in name]
    for p in matrices:
        p.grad = torch.ones_like(p)
    counter = FlopCounterMode(display=False)
    with counter:
        Muon(matrices, lr=1e-3).step()
    assert counter.get_total_flops() == muon_flops(model.config, everything())


STEP = """
import sys, torch
from torch import distributed, nn
from torch.utils.flop_counter import FlopCounterMode
from lidit_train.loop.muon import Muon
distributed.init_process_group("gloo") if sys.argv[1:] else None
torch.manual_seed(0)
matrices = [nn.Parameter(torch.randn(shape)) for shape in [(24, 16)] * 5 + [(16, 16)]]
for p in matrices:
    p.grad = torch.randn(p.shape)
counter = FlopCounterMode(display=False)
with counter:
    Muon(matrices, lr=1e-3).step()
print(counter.get_total_flops(), torch.cat([p.flatten() for p in matrices]).tolist())
distributed.destroy_process_group() if sys.argv[1:] else None
"""


def test_processes_share_what_muon_computes_and_all_have_what_one_would():
    (alone,) = together([sys.executable, "-c", STEP])
    shared = together(*[[sys.executable, "-c", STEP, "joined"]] * 2)
    operations = [int(out.split()[0]) for out in (*shared, alone)]
    counted = {
        world: orthogonalising_flops((24, 16), 5, world) + orthogonalising_flops((16, 16), 1, world)
        for world in (1, 2)
    }
    assert (2 * max(operations[:2]), operations[2]) == (counted[2], counted[1])
    first, second, whole = (json.loads(out.split(maxsplit=1)[1]) for out in (*shared, alone))
    assert first == second
    assert first == pytest.approx(whole, rel=1e-6, abs=1e-6)


def test_a_large_model_is_counted_as_by_hand():
    config = replace(find_preset("LI-DiT-1B"), native_size=256)
    d, c, n, p2c, length, kept = 1152, 4096, 256, 64, 80, 30
    refiner = 2 * length * c * d + 2 * length * c + 2 * (c * d + d**2) + 2 * (256 * d + d**2)
    refiner += 2 * (24 * length * d**2 + 4 * length**2 * d + 4 * d**2)
    fused = 20 * length * d**2 + 4 * length * d**2 + 4 * length**2 * d + 12 * d**2
    k = 2 * kept
    rest = 2 * k * d + 2 * d**2 + 2 * (256 * d + d**2) + 2 * n * p2c * d + 36 * n * d**2
    block = 28 * n * d**2 + 4 * n**2 * d + 4 * k * d**2 + 4 * n * k * d + 18 * d**2
    expected = 2 * refiner + 2 * fused + rest + 28 * block + 2 * n * d * p2c + 4 * d**2
    text = {i: TextTokens(length, kept) for i in (0, 1)}
    assert model_cost(config, SampleTokens(n, text)).whole.forward == expected
