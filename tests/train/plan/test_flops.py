"""Operations by the formula against torch's own count.

Run: pytest tests/train/plan/test_flops.py
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_lidit import random_lidit, random_noise, random_states
from tiny_training import adapted
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from lidit_core.model.config import RefinerConfig
from lidit_core.model.presets import find_preset
from lidit_train.data.token_guess import TextTokens
from lidit_train.loop.muon import Muon
from lidit_train.plan.workload import Sizes, image_tokens
from lidit_train.recipe import Lora
from lidit_train.tasks.lidit.plan_flops import forward_flops, muon_flops, training_flops
from lidit_train.tasks.lidit.trained import everything, refiners_of, with_lora

BATCH, INSTRUCTION = 3, 2
READ = (7, 12)  # tokens of the two branches


def sizes_of(config, branches=(0, 1)) -> Sizes:
    text = {i: TextTokens(READ[i], READ[i] - INSTRUCTION) for i in branches}
    return Sizes(image_tokens(config.patch * config.latent.downsampling, 48, 80), text)


def counted(model, branches=(0, 1), backward=True, checkpointing=False) -> int:
    """By torch, whose count knows attention only where it is made of products."""
    text = {i: random_states(*[READ[i]] * BATCH, instruction=INSTRUCTION) for i in branches}
    again = {"run_block": lambda _, block, *rest: checkpoint(block, *rest, use_reentrant=False)}
    options = again if checkpointing else {}
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        out = model(random_noise(BATCH, 10, 6), torch.full((BATCH,), 500.0), text, **options)
        if backward:
            out.sum().backward()
    return counter.get_total_flops()


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
def test_forward_and_training_are_what_torch_counts(branches, changes):
    model = random_lidit(refiner=RefinerConfig(**changes))
    sizes = sizes_of(model.config, branches)
    assert counted(model, branches, backward=False) == BATCH * forward_flops(model.config, sizes)
    assert counted(model, branches) == BATCH * training_flops(model.config, sizes)


def test_checkpointing_runs_the_blocks_again():
    model = random_lidit()
    sizes = sizes_of(model.config)
    again = training_flops(model.config, sizes, checkpointing=True)
    assert counted(model, checkpointing=True) == BATCH * again


@pytest.mark.parametrize("fresh", [(0,), (0, 1)])
def test_a_frozen_transformer_passes_gradients_on_without_making_its_own(fresh):
    trained = refiners_of(fresh)
    model = adapted(random_lidit(), trained)
    expected = BATCH * training_flops(model.config, sizes_of(model.config), trained)
    assert counted(model) == pytest.approx(expected, rel=0.01)
    assert expected < 0.8 * BATCH * training_flops(model.config, sizes_of(model.config))


@pytest.mark.parametrize("layers", [("blocks",), ("blocks", "text_side")])
def test_a_lora_costs_its_own_products_and_the_gradients_through_the_rest(layers):
    trained = with_lora(Lora(rank=4, layers=layers))
    model = adapted(random_lidit(), trained)
    expected = BATCH * training_flops(model.config, sizes_of(model.config), trained)
    assert counted(model) == pytest.approx(expected, rel=0.01)


def test_muon_is_what_torch_counts():
    model = random_lidit()
    matrices = [p for name, p in model.named_parameters() if p.ndim > 1 and "blocks." in name]
    for p in matrices:
        p.grad = torch.ones_like(p)
    counter = FlopCounterMode(display=False)
    with counter:
        Muon(matrices, lr=1e-3).step()
    assert counter.get_total_flops() == muon_flops(model.config, everything())


def test_the_formula_of_the_docstring_gives_the_same():
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
    assert forward_flops(config, Sizes(n, text)) == expected
