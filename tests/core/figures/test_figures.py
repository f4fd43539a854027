"""Figures of the refiners against literal computations. Run: pytest tests/core/figures"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tiny_lidit import lidit_config, random_lidit, random_states, random_texts

from lidit_core.errors import LiDiTError
from lidit_core.figures.refiners import (
    ReadPrompt,
    gates_over_time,
    refiner_attention,
    state_similarity,
)
from lidit_core.figures.tokens import TokenPlaces
from lidit_core.model.refiners import BranchOptions
from lidit_core.model.text_side import TextOptions

TIME = 0.3
REFINER = lidit_config("llm").refiner


def read_of(llms: int = 2, options: TextOptions | None = None, **refiner) -> ReadPrompt:
    model = random_lidit(llms, refiner=replace(REFINER, **refiner))
    return ReadPrompt(model.text_side, random_texts(llms), options=options or TextOptions())


def context(refiner, hidden: torch.Tensor, t: float) -> torch.Tensor:
    """The context vector of one prompt (L, C), step by step."""
    normed = refiner.entry_norm(hidden).mean(dim=0)
    inner = refiner.c_embedder.in_layer(normed)
    pooled = refiner.c_embedder.out_layer(inner * inner.sigmoid())
    angles = [1000 * t * math.exp(-math.log(10_000) * n / 128) for n in range(128)]
    waves = torch.tensor([*map(math.cos, angles), *map(math.sin, angles)])
    inner = refiner.t_embedder.in_layer(waves)
    return pooled + refiner.t_embedder.out_layer(inner * inner.sigmoid())


@torch.no_grad()
@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_the_softmax_of_each_heads_scores(causal):
    read = read_of(1, blocks=1)
    refiner, hidden = read.side.linguistic[0], read.text[0].hidden[0]
    block = refiner.blocks[0]
    x = block.norm1(refiner.entry(refiner.entry_norm(hidden)))
    q, k, _ = block.self_attn.qkv(x).chunk(3, dim=-1)
    q, k = block.self_attn.norm(q, k)
    expected, length, width = torch.zeros(6, 6), 6, 8
    for head in range(4):
        part = slice(width * head, width * head + width)
        for i in range(length):
            keys = range(i + 1) if causal else range(length)
            scores = [math.exp(float(q[i, part] @ k[j, part]) / math.sqrt(width)) for j in keys]
            for j, score in zip(keys, scores, strict=True):
                expected[i, j] += score / sum(scores) / 4
    (of,) = refiner_attention(read, TIME)
    found, other = (of.causal, of.full) if causal else (of.full, of.causal)
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(other, expected, atol=1e-3)
    assert of.trained == "full" and of.tokens == ("",) * 6


def test_attention_is_the_mean_over_blocks_and_names_registers():
    both, first = read_of(1, blocks=2, registers=2), read_of(1, blocks=2, registers=2)
    del first.side.linguistic[0].blocks[1:]
    (of,), (alone,) = refiner_attention(both, TIME), refiner_attention(first, TIME)
    assert of.full.shape == (8, 8) and of.tokens[:3] == ("register 1", "register 2", "")
    assert torch.allclose(of.full.sum(dim=1), torch.ones(8))
    assert not torch.allclose(of.full, alone.full, atol=1e-4)
    assert of.causal.triu(1).abs().max() == 0
    (later,) = refiner_attention(both, 0.9)
    assert not torch.allclose(of.full, later.full, atol=1e-5)  # the gates lie between the blocks


@torch.no_grad()
def test_gates_are_those_of_the_context_vector_at_each_time():
    read = read_of(2, blocks=2, collaborative_blocks=1)
    gates = gates_over_time(read, (0.2, 1.0))
    assert [gate.name for gate in gates[:6]] == [
        *("refiner 1, attention", "refiner 1, MLP", "refiner 2, attention", "refiner 2, MLP"),
        *("collaborative 1, attention", "collaborative 1, MLP"),
    ]
    assert [gate.llm for gate in gates] == ["llm 0"] * 6 + ["llm 1"] * 6
    for i in range(2):
        refiner = read.side.linguistic[i]
        for place, t in enumerate((0.2, 1.0)):
            c = context(refiner, read.text[i].hidden[0], t)
            c = c * c.sigmoid()
            own = [block.gates.linear(c).chunk(2) for block in refiner.blocks]
            parts = read.side.collaborative.branches[i][0].modulation.linear(c).chunk(6)
            expected = [*own[0], *own[1], parts[2], parts[5]]
            for gate, vector in zip(gates[6 * i : 6 * i + 6], expected, strict=True):
                assert gate.size[place].item() == pytest.approx(vector.abs().mean().item(), 1e-4)


def test_switches_show_in_the_gates():
    halved = TextOptions({0: BranchOptions(strength=0.5), 1: BranchOptions(gated=False)})
    plain, changed = gates_over_time(read_of()), gates_over_time(read_of(options=halved))
    assert len(plain) == len(changed)
    for before, after in zip(plain, changed, strict=True):
        if after.name.startswith("collaborative"):
            assert torch.equal(after.size, before.size)
        elif after.llm == "llm 0":
            assert torch.allclose(after.size, before.size / 2)
        else:
            assert (after.size == 1).all()
    weighted = TextOptions({0: BranchOptions(weight=0.25), 1: BranchOptions(weight=1.0)})
    for before, after in zip(plain, gates_over_time(read_of(options=weighted)), strict=True):
        share = 0.25 if after.llm == "llm 1" and after.name.startswith("coll") else 1.0
        assert torch.allclose(after.size, before.size * share)


@torch.no_grad()
def test_similarities_are_cosines_of_all_pairs():
    read = read_of(2)
    for i, of in enumerate(state_similarity(read, TIME)):
        hidden = read.text[i].hidden[0]
        refined = read.refined([TIME])[i].tokens[0]
        for a in range(6):
            for b in range(6):
                for x, found in ((hidden, of.states), (refined, of.refined)):
                    cosine = x[a] @ x[b] / (x[a].norm() * x[b].norm())
                    assert found[a, b].item() == pytest.approx(cosine.item(), abs=1e-5)


def test_what_is_left_out_is_not_looked_at():
    """Padding, further prompts, and a branch of weight 0."""
    side = read_of(2).side
    padded = {i: random_states(6, 9, seed=i) for i in range(2)}
    (alone,) = refiner_attention(
        ReadPrompt(side, padded, options=TextOptions({1: BranchOptions(weight=0)})), TIME
    )
    assert alone.full.shape == (6, 6)
    expected, _ = refiner_attention(ReadPrompt(side, {i: s[:1] for i, s in padded.items()}), TIME)
    assert torch.allclose(alone.full, expected.full)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: refiner_attention(read_of(), 1.5), "time is 1.5; expected a number from 0 to 1"),
        (lambda: gates_over_time(read_of(), (0.5, "a")), "time is 'a'; expected a number"),
        (lambda: refiner_attention(read_of(1, blocks=0)), "refiner of llm 0 has no block"),
        (lambda: gates_over_time(read_of(1, blocks=0)), "of llm 0 have no block, and so no gate"),
        (
            lambda: ReadPrompt(read_of(1).side, {0: random_states(4).emptied()}),
            "no LLM has read a token of this prompt",
        ),
        (lambda: TokenPlaces.from_json("[1", 9), "places of a prompt's tokens are '.1'; expected"),
    ],
)
def test_mistakes_get_a_sentence(call, sentence):
    with pytest.raises(LiDiTError, match=sentence):
        call()


def test_tokens_are_found_by_their_words():
    places = TokenPlaces("two cats 猫", 3, ((0, 3), (3, 6), (6, 8), (9, 9), (9, 10)))
    assert places.words() == [("two", (3,)), ("cats", (4, 5)), ("猫", (6, 7))]
    assert places.labels(9) == ("", "", "", "two", "ca", "ts", "猫", "猫", "")
    assert TokenPlaces.from_json(places.to_json(), 8) == places
    for told, length in ((places.to_json(), 7), ('["a", -1, [[0, 1]]]', 8), ('["a", 0, [[0]]]', 8)):
        with pytest.raises(LiDiTError, match=f"written for {length} tokens"):
            TokenPlaces.from_json(told, length)
