"""The bridge's model: base, residual, ridge. Run: pytest tests/core/bridge/test_bridge.py"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_bridge import CLIP, PROMPTS, config, randomised, rows, spec, students

from lidit_core.bridge.attention import rotated
from lidit_core.bridge.config import BridgeConfig
from lidit_core.bridge.model import Bridge
from lidit_core.bridge.ridge import FLOOR, Statistics, Sums, floored, solve
from lidit_core.errors import LiDiTError

LONG = "a red cat left of two dogs on a blue background above a car and an apple"


def made(**changes) -> Bridge:
    return randomised(Bridge(config(**changes)))


def test_a_new_bridge_is_its_base_bit_for_bit():
    for residual in ("attention", "mlp"):
        bridge = Bridge(config(residual=residual)).initialise()
        ridge = Bridge(config(residual="none"))
        for part in (bridge, ridge):
            randomised_base(part)
        for given in (bridge, ridge):
            given.eval()
        ours, base = bridge([students()], rows()), ridge([students()], rows())
        assert torch.equal(ours.sequence, base.sequence) and torch.equal(ours.pooled, base.pooled)
        assert base.sequence.abs().sum() > 0


@torch.no_grad()
def randomised_base(bridge: Bridge) -> None:
    generator = torch.Generator().manual_seed(3)
    for name, tensor in bridge.base.named_buffers():
        if "deviation" not in name:
            tensor.copy_(torch.randn(tensor.shape, generator=generator))


ABLATIONS = [
    {"seeds": "none"},
    {"seeds": "trained"},
    {"overlap": False},
    {"base": False},
    {"residual": "mlp"},
    {"blocks": 0},
]


@pytest.mark.parametrize("changes", ABLATIONS)
def test_every_ablation_computes_something_else(changes):
    usual, other = made(), made(**changes)
    ours, theirs = usual([students()], rows()), other([students()], rows())
    assert ours.sequence.shape == theirs.sequence.shape == (4, 16, 20)
    assert ours.pooled.shape == theirs.pooled.shape == (4, 6)
    assert not torch.allclose(ours.sequence, theirs.sequence)


def test_a_prompt_is_the_same_alone_and_beside_others():
    for llms in ((spec(),), (spec(), spec("other", 12))):
        bridge = randomised(Bridge(config(*llms, pooled=6)))
        prompts = [*PROMPTS, LONG]
        many = bridge([students(prompts, llm, 5) for llm in llms], rows(prompts))
        everything = [students(prompts, llm, 5) for llm in llms]
        for n in range(len(prompts)):
            (row,) = [rows([prompts[n]])]
            alone = bridge([cut(tokens, n, prompts[n]) for tokens in everything], row)
            count = row.ids.shape[1]
            assert torch.allclose(many.sequence[n, :count], alone.sequence[0], atol=1e-5)
            assert torch.allclose(many.pooled[n], alone.pooled[0], atol=1e-5)


def cut(tokens, n: int, prompt: str):
    """One prompt's tokens without the padding that it has beside others."""
    from lidit_core.bridge.rows import StudentTokens

    states = tokens.states[n : n + 1].trimmed()
    return StudentTokens(states, tokens.spans[n : n + 1, : states.hidden.shape[1]])


def test_rows_of_a_chunk_read_the_whole_prompt_and_not_the_other_chunks_rows():
    bridge, tokens, given = made(), students([LONG]), rows([LONG])
    before = bridge([tokens], given).sequence
    first = given.chunks[0] == 0
    moved = replace(given, ids=given.ids.where(first, 40))  # other ids in the later chunks
    assert torch.equal(bridge([tokens], moved).sequence[0, first], before[0, first])
    hidden = tokens.states.hidden.clone()
    hidden[0, -1] += 1  # the prompt's last token
    changed = replace(tokens, states=tokens.states.with_hidden(hidden))
    assert not torch.allclose(bridge([changed], given).sequence[0, first], before[0, first])


def test_the_instruction_is_read_by_the_refiner_alone():
    ridge, bridge, tokens = made(residual="none"), made(), students()
    hidden = tokens.states.hidden.clone()
    hidden[:, :2] += 1
    changed = replace(tokens, states=tokens.states.with_hidden(hidden))
    assert torch.equal(ridge([changed], rows()).sequence, ridge([tokens], rows()).sequence)
    assert not torch.allclose(bridge([changed], rows()).sequence, bridge([tokens], rows()).sequence)


def test_rotation_depends_on_the_distance_alone():
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 32, generator=generator).unbind(0)
    near = [(rotated(q, torch.tensor([[a]]), 2) * rotated(k, torch.tensor([[b]]), 2)).sum()
            for a, b in ((3.0, 5.0), (103.0, 105.0))]  # fmt: skip
    assert torch.allclose(near[0], near[1], atol=1e-4)
    assert torch.equal(rotated(q, torch.zeros(1, 1), 2), q)


def test_gradients_reach_all_that_learns_and_nothing_of_the_base():
    bridge = made()
    for parameter in bridge.parameters():
        parameter.requires_grad_(True)
    out = bridge([students()], rows())
    (out.sequence.square().mean() + out.pooled.square().mean()).backward()
    still = [n for n, p in bridge.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert still == []
    assert not [n for n, _ in bridge.named_parameters() if n.startswith("base.")]


def test_ridge_finds_a_linear_map_and_shrinks_by_what_is_held_out():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 12, generator=generator)
    true = torch.randn(5, 12, generator=generator)
    groups = torch.arange(4000) % 3
    y = x @ true.T + groups[:, None] + 0.1 * torch.randn(4000, 5, generator=generator)
    sums, held_out = Sums(12, 5, 3), Sums(12, 5, 3)
    sums.add(x[:3000], y[:3000], groups[:3000])
    held_out.add(x[3000:], y[3000:], groups[3000:])
    solved = solve(sums, held_out)
    assert torch.allclose(solved.weight, true, atol=0.02)
    assert torch.allclose(solved.constants, torch.arange(3.0)[:, None].expand(3, 5), atol=0.02)
    noise = torch.randn(4000, 5, generator=generator)
    few = Sums(12, 5, 3)
    few.add(x[:15], noise[:15], groups[:15])
    others = Sums(12, 5, 3)
    others.add(x[15:], noise[15:], groups[15:])
    assert solve(few, others).weight.norm() < solve(few, few).weight.norm()


def test_sums_in_parts_are_those_of_all_and_the_error_is_that_of_the_residuals():
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(90, 4, generator=generator), torch.randn(90, 3, generator=generator)
    groups = torch.randint(0, 2, (90,), generator=generator)
    whole, parts = Sums(4, 3, 2), Sums(4, 3, 2)
    whole.add(x, y, groups)
    for n in range(0, 90, 30):
        parts.add(x[n : n + 30], y[n : n + 30], groups[n : n + 30])
    assert all(torch.allclose(a, b) for a, b in zip(whole.within(), parts.within()))
    weight = torch.randn(3, 4, dtype=torch.float64)
    left = 0.0
    for g in (0, 1):
        own_x, own_y = x[groups == g].double(), y[groups == g].double()
        left += (own_y - own_y.mean(0) - (own_x - own_x.mean(0)) @ weight.T).square().sum()
    assert whole.error(weight) == pytest.approx(float(left), rel=1e-6)


def test_rows_that_do_not_vary_are_found_and_deviations_have_a_floor():
    seen = Statistics(4, 3)
    generator = torch.Generator().manual_seed(1)
    sink = torch.tensor([50.0, 1.0, -3.0, 0.0])
    for _ in range(20):
        seen.add(sink + 1e-4 * torch.randn(2, 4, generator=generator), torch.zeros(2).long())
        seen.add(sink + torch.randn(2, 4, generator=generator), torch.ones(2).long())
    assert seen.still().tolist() == [True, False, False]
    assert torch.allclose(seen.means[0], sink.double(), atol=1e-3)
    deviations = torch.tensor([1.0, 1.0, 1e-9, 10.0, 0.01, 10.0])
    raised = floored(deviations, (3, 3))
    assert raised.tolist() == pytest.approx([1.0, 1.0, FLOOR, 10.0, 10 * FLOOR, 10.0])
    assert floored(torch.zeros(3)).tolist() == [1.0, 1.0, 1.0]
    filled = torch.tensor([1.0, 1e-9, 1.0, 0.0, 0.0, 0.0, 0.0])  # SD3 fills CLIP's rows up
    assert floored(filled).tolist() == pytest.approx([1.0, FLOOR, 1.0, *[FLOOR] * 4])


def test_a_teacher_says_which_parts_share_a_median():
    """Of each layout's rows, of which the last part may be zeros, and of the pooled vector."""
    first = config().teacher
    assert (first.parts(0), first.pooled_parts) == ((20,), (6,))
    taps = {"taps": (4, 6), "more": (CLIP,), "more_taps": ((5, 15),), "pooled_taps": (2, 4)}
    made = replace(first, **taps)
    assert (made.parts(0), made.parts(1), made.pooled_parts) == ((4, 6, 10), (5, 15), (2, 4))
    whole = replace(config(spec(), spec("b", 32), layout=CLIP), teacher=made)
    assert BridgeConfig.from_json(whole.to_json()) == whole and whole.state_parts == (24, 32)
    older = replace(made, more_taps=(), pooled_taps=())
    assert (older.parts(1), older.pooled_parts) == ((20,), (6,))
    for wrong in ({"taps": (4, 17)}, {"more_taps": ((21,),)}, {"pooled_taps": (7,)}):
        with pytest.raises(LiDiTError, match="numbers; expected widths whose sum is no more"):
            replace(made, **wrong)
    with pytest.raises(LiDiTError, match="more_taps=.* and 2 layouts; expected 1 or none"):
        replace(made, more_taps=((5,), (5,)))


def test_a_row_that_was_seldom_seen_is_no_constant():
    """Of a place that one prompt of a collection reaches nothing says that it never varies."""
    seen = Statistics(4, 2)
    for _ in range(10):
        seen.add(torch.ones(1, 4), torch.zeros(1).long())
    seen.add(torch.randn(1, 4), torch.ones(1).long())
    assert seen.still().tolist() == [True, False]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"width": 30}, "a width that twice the heads divide"),
        ({"residual": "lstm"}, "expected one of attention, mlp, none"),
        ({"seeds": "random"}, "expected one of pca, trained, none"),
        ({"residual": "none", "base": False}, "neither base nor residual"),
        ({"heads": 0}, "heads=0; expected 1 or more"),
        ({"add": True, "residual": "mlp"}, "adds to an encoder and has residual='mlp'"),
        ({"add": True, "base": False}, "what the encoder wrote is the base"),
    ],
)
def test_configurations_that_cannot_be_are_told(changes, sentence):
    with pytest.raises(LiDiTError, match=sentence):
        config(**changes)


def test_a_configuration_survives_its_json():
    ours = config(spec(), spec("other", 12), overlap=False)
    assert BridgeConfig.from_json(ours.to_json()) == ours


def test_states_of_another_width_or_number_are_told():
    bridge = made()
    with pytest.raises(LiDiTError, match="12 wide, and this bridge was trained on student"):
        bridge([students(llm=spec("x", 12))], rows())
    with pytest.raises(LiDiTError, match="states of 2 LLMs came to a bridge of 1"):
        bridge([students(), students()], rows())
