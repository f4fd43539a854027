"""How a branch's weight goes over into its removal. Run: pytest -k branch_weight."""

from __future__ import annotations

import itertools

import pytest
import torch
from tiny_lidit import random_lidit, random_texts

from benchmarks import branch_weight
from benchmarks.branch_weight import PROMPT, distances, step
from lidit_core.errors import LiDiTError
from lidit_core.model.attention import scaled_dot_product
from lidit_core.model.refiners import BranchOptions
from lidit_core.model.text_side import TextOptions
from lidit_core.pipeline import load_pipeline
from lidit_core.text.states import stack_states

NEAR = 0.02  # of the distance between a weight of 1 and a branch that is removed


@pytest.fixture(scope="module")
def duo():
    try:
        pipeline = load_pipeline("stickers-duo", device="cpu")
        pipeline.encode(["a"])
    except LiDiTError as error:
        pytest.skip(str(error))
    return pipeline


@pytest.mark.parametrize("branch", [0, 1])
def test_it_falls_to_removed_with_the_shipped_weights(duo, branch):
    found = distances(duo.model, duo.encode([PROMPT]), branch)
    assert all(b < a for a, b in itertools.pairwise(found)), found
    assert found[-1] < NEAR, found


def test_the_table_has_a_row_for_each_llm(duo, capsys):
    branch_weight.main([])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and all(
        f"| {llm.name} | 1.0000 |" in lines[2 + i] for i, llm in enumerate(duo.model.config.llms)
    )


def test_a_model_of_one_llm_has_no_such_table():
    with pytest.raises(LiDiTError, match="reads SmolLM2-135M-Instruct alone; expected a model of"):
        branch_weight.main(["--model", "stickers"])


@pytest.mark.parametrize("llms, branch", [(2, 0), (2, 1), (3, 0), (3, 2)])
@pytest.mark.parametrize("lengths", [(6,), (6, 9)])
def test_it_falls_to_removed_in_any_model(llms, branch, lengths):
    model, text = random_lidit(llms), random_texts(llms, *lengths)
    assert distances(model, text, branch)[-1] < NEAR


def test_a_weight_of_1_is_none_to_the_bit():
    model, text = random_lidit(2), random_texts(2, 6, 9)
    assert torch.equal(step(model, text, {}), step(model, text, {0: 1.0, 1: 1.0}))


@pytest.mark.parametrize("weight", [0.001, 0.5, 7.0])
def test_the_only_llms_weight_is_idle(weight):
    model, text = random_lidit(2), random_texts(2, 6, 9)
    alone = {1: text[1]}
    assert torch.equal(step(model, alone, {1: weight}), step(model, alone, {}))
    removed = step(model, text, {0: 0.0})
    assert torch.equal(step(model, text, {0: 0.0, 1: weight}), removed)


def test_a_weight_does_not_depend_on_what_else_is_in_the_batch():
    """A row whose other branch holds no token is read as if that LLM were alone."""
    model, text = random_lidit(2), random_texts(2, 6)
    both = {0: stack_states([text[0]] * 2), 1: stack_states([text[1], text[1].emptied()])}
    weights = {0: 0.2, 1: 3.0}
    together = step(model, both, weights)
    x = torch.randn(2, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        alone = model(x[1:], torch.tensor([900.0]), {0: text[0]})
    assert (together[1:] - alone).abs().max() <= 1e-5
    # and of the row with both, the pooled text is the mean by weight
    options = TextOptions({i: BranchOptions(weight=w) for i, w in weights.items()}, "concatenation")
    given = torch.tensor([900.0]), torch.float32, scaled_dot_product
    with torch.no_grad():
        pooled = [model.text_side({i: text[i]}, *given).pooled for i in (0, 1)]
        mixed = model.text_side(text, *given, options).pooled
    assert torch.allclose(mixed, (0.2 * pooled[0] + 3.0 * pooled[1]) / 3.2, atol=1e-5)
