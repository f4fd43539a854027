"""A step of LI-DiT waits for no device and compiles as one graph.

`python3 run.py prove compiled` does so with PyTorch's own compiler, inductor, which takes minutes.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from tiny_lidit import Looks, lidit_config, randomise
from torch._dynamo.testing import CompileCounter

from lidit_core.model.attention import scaled_dot_product as attention
from lidit_core.model.dit import LiDiT
from lidit_core.text.states import INSTRUCTION, PROMPT, LLMStates, stack_states

FEW = 1e-5
BACKEND = os.environ.get("LIDIT_TEST_BACKEND", "aot_eager")
LENGTHS = [(9, 9), (13, 7), (6, 6)]  # tokens of a batch's two prompts, four of them instruction


def states(width: int, lengths: Sequence[int], seed: int = 0) -> LLMStates:
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for length in lengths:
        roles = torch.full((1, length), PROMPT, dtype=torch.int32)
        roles[:, :4] = INSTRUCTION
        rows.append(LLMStates(torch.randn(1, length, width, generator=generator), roles))
    return stack_states(rows)


@pytest.fixture(scope="module")
def model() -> LiDiT:
    return randomise(LiDiT(lidit_config("alpha", "beta"))).eval()


def call(model: LiDiT, lengths: Sequence[int]) -> tuple:
    widths = [spec.width for spec in model.config.llms]
    text = {i: states(width, lengths, i) for i, width in enumerate(widths)}
    noise = torch.Generator().manual_seed(9)
    x = torch.randn(len(lengths), model.channels, 8, 8, generator=noise)
    return x, torch.linspace(900, 400, len(lengths)), text


def test_the_counter_sees_a_look():
    with Looks() as looks:
        bool(torch.ones(3).all())
    assert looks.seen


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("branches", [(0,), (1,), (0, 1)])
def test_a_step_looks_at_no_tensor(model, lengths, branches):
    x, t, text = call(model, lengths)
    chosen = {i: text[i] for i in branches}
    with torch.no_grad(), Looks() as looks:
        model(x, t, chosen)
    assert looks.seen == []


def test_states_know_their_rows_through_all_that_is_done_to_them():
    batch = states(5, (9, 6, 4))
    changed = [
        batch,
        batch[1:],
        batch[[2, 0]],
        batch[torch.tensor([1, 1])],
        batch.padded(12),
        batch[1:].trimmed(),
        batch.emptied(),
        batch.to(dtype=torch.bfloat16),
        stack_states([batch, batch.padded(20), batch.emptied()]),
        replace(batch, roles=torch.zeros_like(batch.roles)),
        replace(batch, hidden=batch.hidden + 1),
    ]
    for of in changed:
        assert of.rows == LLMStates(of.hidden, of.roles).rows
        assert of.rows.all_seen == bool((of.roles != 0).all())


@pytest.mark.parametrize("part", ["model", "text side"])
def test_it_compiles_as_one_graph_and_gives_equal_numbers(model, part):
    torch._dynamo.reset()
    compiled = torch.compile(
        model if part == "model" else model.text_side, fullgraph=True, backend=BACKEND
    )
    for lengths in LENGTHS:
        x, t, text = call(model, lengths)
        with torch.no_grad():
            if part == "model":
                expected, found = (run(x, t, text) for run in (model, compiled))
            else:
                given = text, t, x.dtype, attention
                expected, found = (run(*given).tokens for run in (model.text_side, compiled))
        assert (found - expected).abs().max() <= FEW * expected.abs().max()


def batch_of_eight(model: LiDiT, draw: random.Random, empty: bool) -> tuple:
    """Prompts of any length for a step, one of which may be without any token."""
    x, t, text = call(model, [draw.randint(5, 30) for _ in range(8)])
    nothing = (torch.arange(8) == (draw.randrange(8) if empty else -1))[:, None]
    text = {i: replace(of, roles=of.roles.masked_fill(nothing, 0)) for i, of in text.items()}
    return x, t, text


@pytest.mark.long
@pytest.mark.parametrize("part", ["model", "blocks"])
@pytest.mark.parametrize("empties, most", [((0, 0, 0, 0, 0), 2), ((0, 1, 0, 1, 1, 0, 0), 4)])
def test_prompts_of_other_lengths_find_it_compiled(part, empties, most):
    """One graph is made for the first length and one for any; the same again with an empty row."""
    torch._dynamo.reset()
    model, counter, draw = LiDiT(lidit_config("alpha", "beta")), CompileCounter(), random.Random(0)
    compiled = torch.compile(model, fullgraph=True, backend=counter) if part == "model" else model
    if part == "blocks":
        for block in model.blocks:
            block.compile(fullgraph=True, backend=counter)
    for empty in empties:
        compiled(*batch_of_eight(model, draw, bool(empty)))
    assert 1 <= counter.frame_count <= most


def test_templates_of_other_lengths_are_no_graphs_of_their_own():
    torch._dynamo.reset()
    model, counter = LiDiT(lidit_config("alpha", "beta")), CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for instruction in (4, 5, 6, 7, 3):
        x, t, text = call(model, [9, 12 + instruction])
        compiled(x, t, {i: with_instruction(of, instruction) for i, of in text.items()})
    assert counter.frame_count <= 3


def with_instruction(of: LLMStates, tokens: int) -> LLMStates:
    roles = of.roles.clone()
    roles[:, :4] = PROMPT
    roles[:, :tokens] = INSTRUCTION
    return replace(of, roles=roles)
