"""Bytes that a plan counts as kept for the backward pass against those of real runs.

Run: pytest tests/train/plan/test_activations.py
"""

from __future__ import annotations

import pytest
import torch
from real_cost import real_cost
from tiny_lidit import random_lidit, random_noise, random_states
from tiny_training import adapted

from lidit_core.model.config import RefinerConfig
from lidit_train.data.token_guess import TextTokens
from lidit_train.plan.workload import SampleTokens, image_tokens
from lidit_train.recipe import LORA_KINDS, Lora
from lidit_train.tasks.lidit.plan.activations import BATCH_TENSORS, saved_activations
from lidit_train.tasks.lidit.trained import everything, refiners_of, with_lora

BATCH, SIDES, INSTRUCTION, READ = 3, (12, 20), 4, (24, 15)


def bytes_kept(model, branches) -> int:
    text = {i: random_states(*[READ[i]] * BATCH, instruction=INSTRUCTION) for i in branches}
    x, t = random_noise(BATCH, *SIDES), torch.full((BATCH,), 500.0)
    return real_cost(lambda: model(x, t, text), model.parameters()).saved


def sizes_of(config, branches) -> SampleTokens:
    text = {i: TextTokens(READ[i], READ[i] - INSTRUCTION) for i in branches}
    grain = config.patch * config.latent.downsampling
    return SampleTokens(image_tokens(grain, 8 * SIDES[1], 8 * SIDES[0]), text)


LORA = with_lora(Lora(rank=4))
FEW = with_lora(Lora(rank=4, layers=("blocks.1", "blocks.4.mlp")))
NO_NORM = RefinerConfig(qk_norm=False, gated=False)


@pytest.mark.parametrize(
    ("trained", "branches", "refiner"),
    [
        (everything(), (0, 1), RefinerConfig()),
        (everything(), (1,), RefinerConfig(blocks=4)),
        (everything(), (0, 1), NO_NORM),
        (everything(), (0, 1), RefinerConfig(fusion="concatenation")),
        (refiners_of((0, 1)), (0, 1), RefinerConfig()),
        (refiners_of((0,)), (0,), RefinerConfig()),
        (LORA, (0, 1), RefinerConfig()),
        (FEW, (0, 1), RefinerConfig()),
        *((with_lora(Lora(4, kind=kind)), (0, 1), RefinerConfig()) for kind in LORA_KINDS[1:]),
    ],
)
def test_what_is_counted_is_what_autograd_keeps(trained, branches, refiner):
    model = adapted(random_lidit(refiner=refiner, depth=5, width=64), trained)
    planned = saved_activations(model.config, sizes_of(model.config, branches), BATCH, trained)
    batch = 4 * BATCH_TENSORS * BATCH * 16 * SIDES[0] * SIDES[1]
    assert planned.total - batch == pytest.approx(bytes_kept(model, branches), rel=0.005)


def test_checkpointing_keeps_inputs_and_one_block():
    config = random_lidit(depth=3).config
    sizes = SampleTokens(40, {0: TextTokens(9, 5)})
    whole = saved_activations(config, sizes, 2, everything())
    less = saved_activations(config, sizes, 2, everything(), checkpointing=True)
    shared = 2 * (5 + 1) * 32 * 4  # what keys and values, and modulations, are made of
    assert less.blocks - shared == (whole.blocks - shared) // 3 + 3 * 2 * 40 * 32 * 4
    assert (less.text, less.rest) == (whole.text, whole.rest)


def test_blocks_before_all_that_learns_keep_nothing():
    config = random_lidit(depth=6).config
    sizes = SampleTokens(40, {0: TextTokens(9, 5)})
    kept = [
        saved_activations(config, sizes, 2, with_lora(Lora(4, layers=(layer,))), checkpointing=c)
        for layer in ("blocks.1", "blocks.5")
        for c in (False, True)
    ]
    assert kept[2].blocks < kept[0].blocks / 3
    assert kept[1].blocks - kept[3].blocks == 4 * 2 * 40 * 32 * 4


def test_autocast_halves_what_is_not_normed():
    """A block keeps 36 + 22c bytes for a number of the image tokens, and c more in float32."""
    config = random_lidit(depth=1, llms=1).config
    sizes = SampleTokens(1 << 16, {0: TextTokens(1, 1)})
    n = (1 << 16) * 32
    for mixed, bytes_each in ((False, 36 + 22 * 4 + 4), (True, 36 + 22 * 2)):
        saved = saved_activations(config, sizes, 1, everything(), mixed).blocks
        statistics = (3 * 8 + 5 * 4 * config.heads) * (1 << 16)
        assert saved - statistics == pytest.approx(bytes_each * n, rel=0.001)
