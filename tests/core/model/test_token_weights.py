"""Weights of tokens, in the transformer alone. Run: pytest -k token_weights"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_lidit import random_lidit, random_noise, random_texts
from torch.nn.functional import pad

from lidit_core.model.attention import scaled_dot_product
from lidit_core.model.refiners import BranchOptions
from lidit_core.model.text_side import TEXT_AS_CONFIGURED, TextOptions
from lidit_core.text.states import PROMPT, LLMStates, stack_states

WORD = slice(4, 6)  # tokens of a prompt of 8, of which 2 are the instruction


def weighted(states: LLMStates, weight: float) -> LLMStates:
    emphasis = torch.ones(states.roles.shape)
    emphasis[:, WORD] = weight
    return replace(states, emphasis=emphasis)


def step(model, text, options=TEXT_AS_CONFIGURED, x=None):
    rows = len(next(iter(text.values())))
    x = random_noise(rows, 8, 8) if x is None else x
    with torch.no_grad():
        return model(x, torch.full((rows,), 800.0), text, options)


def context(model, text, options=TEXT_AS_CONFIGURED):
    with torch.no_grad():
        return model.text_side(
            text, torch.tensor([800.0]), torch.float32, scaled_dot_product, options
        )


@pytest.mark.parametrize("llms", [1, 2])
def test_a_weight_is_so_many_copies_of_the_words_tokens(llms):
    """Log w on a key is w copies of it; in the pooled text it counts w times."""
    model, text = random_lidit(llms), random_texts(llms, 8)
    plain = context(model, text)
    twice = context(model, {**text, 0: weighted(text[0], 2.0)})
    assert torch.equal(twice.tokens, plain.tokens)  # the refiners do not see it
    bias = twice.bias[0, 0, 0]
    assert torch.allclose(bias.exp(), pad(torch.ones(2), (2, bias.numel() - 4), value=0) + 1)
    own = plain.tokens[0, :6]
    mean = torch.cat([own, own[2:4]]).mean(dim=0)
    others = [plain.tokens[0, 6 * i : 6 * i + 6].mean(dim=0) for i in range(1, llms)]
    assert torch.allclose(twice.pooled[0], torch.stack([mean, *others]).mean(dim=0), atol=1e-5)


def test_weight_0_is_the_masks():
    """As if the refined tokens were not there: no key, and not in the pooled text."""
    model, text = random_lidit(1), random_texts(1, 8)
    without = context(model, {0: weighted(text[0], 0.0)})
    plain = context(model, text)
    rest = [n for n in range(6) if n not in (2, 3)]
    assert torch.allclose(without.pooled[0], plain.tokens[0, rest].mean(dim=0), atol=1e-5)
    assert (without.bias[0, 0, 0, [2, 3]] < -1000).all() and (
        without.bias[0, 0, 0, rest] == 0
    ).all()
    small = step(model, {0: weighted(text[0], 1e-6)})
    assert (small - step(model, {0: weighted(text[0], 0.0)})).abs().max() < 1e-4


def test_nothing_but_weights_of_0_is_no_text_at_all():
    model, text = random_lidit(1), random_texts(1, 8)
    nothing = replace(text[0], emphasis=torch.zeros(1, 8))
    assert (step(model, {0: nothing}) - step(model, {0: text[0].emptied()})).abs().max() <= 1e-5


def test_each_row_has_its_own():
    model, text = random_lidit(2), random_texts(2, 8)
    other = random_texts(2, 5)
    both = {i: stack_states([weighted(text[i], 3.0), other[i]]) for i in text}
    x = random_noise(2, 8, 8)
    together = step(model, both, x=x)
    alone = [step(model, {i: weighted(of, 3.0) for i, of in text.items()}, x=x[:1])]
    alone += [step(model, other, x=x[1:])]
    assert (together - torch.cat(alone)).abs().max() <= 1e-5


def test_a_constant_weight_over_all_tokens_that_are_kept_cancels():
    model, text = random_lidit(2), random_texts(2, 8)
    all_ = {i: replace(of, emphasis=torch.full((1, 8), 1.7)) for i, of in text.items()}
    assert (step(model, all_) - step(model, text)).abs().max() <= 1e-5


def test_it_goes_together_with_branch_weights():
    model, text = random_lidit(2), random_texts(2, 8)
    options = TextOptions({1: BranchOptions(weight=0.5)})
    bias = context(model, {**text, 1: weighted(text[1], 3.0)}, options).bias[0, 0, 0].exp()
    assert torch.allclose(bias, torch.tensor([1.0] * 6 + [0.5, 0.5, 1.5, 1.5, 0.5, 0.5]))


@pytest.mark.long
def test_it_compiles_as_one_graph():
    torch._dynamo.reset()
    model = random_lidit(2)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for lengths in ((8, 8), (11, 7)):
        text = {i: weighted(of, 2.0) for i, of in random_texts(2, *lengths).items()}
        assert (step(compiled, text) - step(model, text)).abs().max() <= 1e-5
    assert int((text[0].roles == PROMPT).sum()) == 14
