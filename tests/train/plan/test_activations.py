"""What autograd keeps, by the formula against autograd.

Run: pytest tests/train/plan/test_activations.py
"""

from __future__ import annotations

import pytest
import torch
from tiny_lidit import random_lidit, random_noise, random_states
from tiny_training import adapted
from torch import nn

from lidit_core.model.config import RefinerConfig
from lidit_train.data.token_guess import TextTokens
from lidit_train.plan.workload import Sizes, image_tokens
from lidit_train.recipe import Lora
from lidit_train.tasks.lidit.plan_activations import BATCH_TENSORS, saved_activations
from lidit_train.tasks.lidit.trained import everything, refiners_of, with_lora

BATCH, SIDES, INSTRUCTION, READ = 3, (12, 20), 4, (24, 15)


def bytes_kept(model: nn.Module, branches) -> int:
    """Of different tensors that autograd holds after a forward pass, weights aside."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    held: dict[int, int] = {}
    tensors = []

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage.nbytes()
            tensors.append(tensor)
        return tensor

    text = {i: random_states(*[READ[i]] * BATCH, instruction=INSTRUCTION) for i in branches}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(random_noise(BATCH, *SIDES), torch.full((BATCH,), 500.0), text)
    return sum(held.values())


LORA = with_lora(Lora(rank=4))
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
    ],
)
def test_the_formula_is_what_autograd_keeps(trained, branches, refiner):
    model = adapted(random_lidit(refiner=refiner, depth=3, width=64), trained)
    text = {i: TextTokens(READ[i], READ[i] - INSTRUCTION) for i in branches}
    sizes = Sizes(
        image_tokens(
            model.config.patch * model.config.latent.downsampling, 8 * SIDES[1], 8 * SIDES[0]
        ),
        text,
    )
    planned = saved_activations(model.config, sizes, BATCH, trained)
    batch = 4 * BATCH_TENSORS * BATCH * 16 * SIDES[0] * SIDES[1]
    assert planned.total - batch == pytest.approx(bytes_kept(model, branches), rel=0.03)


def test_checkpointing_keeps_inputs_and_one_block():
    config = random_lidit(depth=3).config
    sizes = Sizes(40, {0: TextTokens(9, 5)})
    whole = saved_activations(config, sizes, 2, everything())
    less = saved_activations(config, sizes, 2, everything(), checkpointing=True)
    shared = 2 * 5 * 32 * 4
    assert less.blocks - shared == (whole.blocks - shared) // 3 + 3 * 2 * 40 * 32 * 4
    assert (less.text, less.rest) == (whole.text, whole.rest)


def test_autocast_halves_what_is_not_normed():
    """Docstring: 36 + 22c numbers a token of the image without and with autocast."""
    config = random_lidit(depth=1, llms=1).config
    sizes = Sizes(1 << 16, {0: TextTokens(1, 1)})
    n = (1 << 16) * 32
    for compute, bytes_each in ((4, 36 + 22 * 4 + 4), (2, 36 + 22 * 2)):
        saved = saved_activations(config, sizes, 1, everything(), compute).blocks
        statistics = (3 * 8 + 5 * 4 * config.heads) * (1 << 16)
        assert saved - statistics == pytest.approx(bytes_each * n, rel=0.001)
