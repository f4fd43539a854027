"""The refiners and the text side. Run: pytest tests/core/model/test_refiners.py"""

from __future__ import annotations

import pytest
import torch
from tiny_lidit import LLM_WIDTH as C
from tiny_lidit import random_states as states
from tiny_lidit import randomise

from lidit_core.errors import LiDiTError
from lidit_core.model.attention import scaled_dot_product
from lidit_core.model.config import RefinerConfig
from lidit_core.model.refiners import BranchOptions, LinguisticTokenRefiner
from lidit_core.model.text_side import TextOptions, TextSide
from lidit_core.text.spec import LLMSpec
from lidit_core.text.states import INSTRUCTION, PADDING, PROMPT, LLMStates, stack_states

WIDTH, HEADS = 32, 4
F32 = torch.float32


def token_refiner(**switches) -> LinguisticTokenRefiner:
    config = RefinerConfig(**switches)
    return randomise(LinguisticTokenRefiner(LLMSpec("tiny", C), WIDTH, HEADS, config)).eval()


def refine(module: LinguisticTokenRefiner, text: LLMStates, t=500.0, **options) -> torch.Tensor:
    times = torch.full((len(text),), t)
    with torch.no_grad():
        return module(text, times, F32, scaled_dot_product, BranchOptions(**options)).tokens


def text_side(branches: int, **switches) -> TextSide:
    specs = tuple(LLMSpec(f"llm {i}", C) for i in range(branches))
    return randomise(TextSide(specs, WIDTH, HEADS, RefinerConfig(**switches))).eval()


def context(module: TextSide, text: dict[int, LLMStates], t=500.0, **options):
    times = torch.full((len(next(iter(text.values()))),), t)
    with torch.no_grad():
        return module(text, times, F32, scaled_dot_product, TextOptions(**options))


@pytest.mark.parametrize("switches", [{}, {"full_attention": False}, {"qk_norm": False}])
def test_padding_changes_nothing(switches):
    module = token_refiner(**switches)
    text = states(5, 9)
    together = refine(module, text)
    alone = refine(module, text[:1].trimmed())
    assert (together[:1, :5] - alone).abs().max() <= 1e-5
    assert (refine(module, text.padded(20))[:, :9] - together).abs().max() <= 1e-5


def test_zero_gates_are_the_identity():
    module = token_refiner()
    text = states(6)
    entry = refine(module, text, strength=0.0)
    plain = module.entry(module.entry_norm(text.hidden))
    assert torch.equal(entry, plain)
    for block in module.blocks:
        torch.nn.init.zeros_(block.gates.linear.weight)
        torch.nn.init.zeros_(block.gates.linear.bias)
    assert torch.equal(refine(module, text), plain)
    assert not torch.equal(refine(module, text, gated=False), plain)


@pytest.mark.parametrize("how", ["configuration", "option"])
def test_only_full_attention_lets_the_first_token_see_the_last(how):
    text = states(7)
    changed = LLMStates(text.hidden.clone(), text.roles)
    changed.hidden[:, -1] += 1
    for full in (True, False):
        module = token_refiner(full_attention=full if how == "configuration" else not full)
        option = {} if how == "configuration" else {"full_attention": full}
        with torch.no_grad():  # the pooled context sees every token, so its map is switched off
            module.c_embedder.out_layer.weight.zero_()
        moved = (refine(module, text, **option) - refine(module, changed, **option)).abs()
        assert (moved[:, 0].max() > 1e-4) == full
        assert moved[:, -1].max() > 1e-4


def test_gates_depend_on_the_timestep_and_on_the_pooled_text():
    module = token_refiner()
    text = states(6)
    early = refine(module, text, t=10.0)
    assert not torch.allclose(early, refine(module, text, t=900.0))
    with torch.no_grad():
        module.c_embedder.out_layer.weight.mul_(3)
    assert not torch.allclose(early, refine(module, text, t=10.0))


def test_the_context_vector_is_a_masked_mean_of_normalised_states():
    module = token_refiner()
    text = states(4, 8)
    with torch.no_grad():
        c = module(text, torch.tensor([3.0, 3.0]), F32, scaled_dot_product).c
        mean = module.entry_norm(text.hidden[0, :4]).mean(dim=0)
        expected = module.t_embedder(torch.tensor([3.0]), F32) + module.c_embedder(mean)
    assert torch.allclose(c[:1], expected, atol=1e-5)


def test_one_llm_makes_the_collaborative_refiner_the_identity():
    module = text_side(1)
    assert sum(p.numel() for p in module.collaborative.parameters()) == 0
    text = {0: states(6)}
    fused = context(module, text)
    unfused = context(module, text, fusion="concatenation")
    assert torch.equal(fused.tokens, unfused.tokens)


@pytest.mark.parametrize("branches", [1, 2, 3])
def test_any_number_of_llms(branches):
    module = text_side(branches)
    lengths = [6, 9, 5][:branches]
    text = {i: states(length, length - 2, seed=i) for i, length in enumerate(lengths)}
    out = context(module, text)
    assert out.tokens.shape == (2, sum(n - 2 for n in lengths), WIDTH)  # instruction dropped
    assert out.pooled.shape == (2, WIDTH)
    if branches > 1:
        assert not torch.allclose(out.tokens, context(module, text, fusion="concatenation").tokens)


@pytest.mark.parametrize("branches", [1, 2, 3])
def test_different_lengths_in_one_batch_give_what_they_give_alone(branches):
    module = text_side(branches)
    text = {i: states(6 + i, 11 - i, seed=i) for i in range(branches)}
    both = context(module, text)
    for row in range(2):
        alone = context(module, {i: s[row : row + 1].trimmed() for i, s in text.items()})
        seen = both.bias[row, 0, 0] == 0
        assert (both.tokens[row, seen] - alone.tokens[0]).abs().max() <= 1e-5
        assert (both.pooled[row] - alone.pooled[0]).abs().max() <= 1e-5


def test_a_branch_reads_the_others_as_they_were_at_the_blocks_input():
    module = text_side(3)
    text = {i: states(6, seed=i) for i in range(3)}
    plain, opened = context(module, text, fusion="concatenation"), context(module, text)
    block = module.collaborative.branches[0][0]
    with torch.no_grad():
        block.modulation.linear.weight.zero_()
        block.modulation.linear.bias.zero_()
    shut = context(module, text)
    assert torch.equal(shut.tokens[:, :4], plain.tokens[:, :4])  # branch 0's gates are shut
    assert not torch.equal(opened.tokens[:, :4], plain.tokens[:, :4])
    assert not torch.equal(opened.tokens[:, 4:], plain.tokens[:, 4:])
    assert torch.equal(shut.tokens[:, 4:], opened.tokens[:, 4:])  # what it became, they never read


def test_an_emptied_branch_is_a_branch_left_out():
    module = text_side(2)
    text = {0: states(6), 1: states(8, seed=1)}
    alone = context(module, {0: text[0]})
    emptied = context(module, {0: text[0], 1: text[1].emptied()})
    removed = context(module, text, branches={1: BranchOptions(weight=0.0)})
    for other in (emptied, removed):
        assert (other.tokens[:, :4] - alone.tokens).abs().max() <= 1e-5
        assert (other.pooled - alone.pooled).abs().max() <= 1e-5
        assert (other.bias[0, 0, 0, 4:] < -1000).all()


def test_a_weight_adds_its_logarithm_to_the_branchs_keys():
    module = text_side(2)
    text = {0: states(6), 1: states(8, seed=1)}
    assert context(module, text, branches={1: BranchOptions(weight=1.0)}).bias is None
    bias = context(module, text, branches={1: BranchOptions(weight=0.5)}).bias[0, 0, 0]
    assert torch.allclose(bias[:4], torch.zeros(4))
    assert torch.allclose(bias[4:], torch.full((6,), 0.5).log())


def test_no_text_at_all_is_finite_and_absent():
    module = text_side(2)
    text = {0: states(6).emptied(), 1: states(8, seed=1).emptied()}
    out = context(module, text)
    assert torch.isfinite(out.tokens).all()
    assert torch.equal(out.pooled, torch.zeros(1, WIDTH))
    assert torch.equal(out.present, torch.zeros(1, 1, 1))


def test_switches_of_the_configuration():
    assert len(token_refiner(blocks=3).blocks) == 3
    assert len(token_refiner(blocks=0).blocks) == 0
    assert isinstance(token_refiner(entry_norm=False).entry_norm, torch.nn.Identity)
    assert not list(token_refiner(qk_norm=False).blocks[0].self_attn.norm.parameters())
    text = {i: states(6, seed=i) for i in range(2)}
    by_config = context(text_side(2, fusion="concatenation"), text)
    by_option = context(text_side(2), text, fusion="concatenation")
    assert torch.equal(by_config.tokens, by_option.tokens)


def test_gemmas_large_states_survive_float16():
    """A token beyond float16's 65,504 gives what float32 gives, not NaN."""
    module = token_refiner(blocks=0)
    text = states(5)
    text.hidden[0, 0] *= 1e5 / text.hidden[0, 0].abs().max()
    exact = refine(module, text)
    module.half()
    with torch.no_grad():
        half = module(text, torch.tensor([500.0]), torch.float16, scaled_dot_product).tokens
    assert (half.float() - exact).abs().max() < 0.02 * exact.abs().max()


def test_two_collaborative_blocks():
    """The second block's input is the first one's output: branch 0 reaches branch 2 through 1."""
    module = text_side(3, collaborative_blocks=2)
    assert [len(blocks) for blocks in module.collaborative.branches] == [2, 2, 2]
    text = {i: states(6, seed=i) for i in range(3)}
    opened = context(module, text)
    with torch.no_grad():
        module.collaborative.branches[0][0].modulation.linear.weight.zero_()
        module.collaborative.branches[0][0].modulation.linear.bias.zero_()
    assert not torch.equal(context(module, text).tokens[:, 8:], opened.tokens[:, 8:])


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: refine(token_refiner(), states(5, width=C + 1)), "25 wide"),
        (lambda: context(text_side(1), {3: states(5)}), "branches [3]"),
        (lambda: BranchOptions(weight=-1.0), "weight -1.0"),
        (lambda: BranchOptions(weight=float("nan")), "weight nan"),
        (lambda: BranchOptions(strength=float("inf")), "strength inf"),
        (lambda: states(5).padded(3), "cannot be padded to 3"),
        (lambda: TextOptions(fusion="sum"), "'sum'"),
        (lambda: LLMStates(torch.zeros(1, 2, 3), torch.zeros(1, 3)), "(1, 2, 3)"),
        (lambda: stack_states([states(5), states(5, width=C + 1)]), "[24, 25]"),
    ],
)
def test_bad_input_gets_one_sentence(call, words):
    with pytest.raises(LiDiTError, match=".*") as error:
        call()
    assert words in str(error.value)


def test_states_keep_their_meaning_when_padded_and_trimmed():
    text = states(4, 7)
    assert text.roles[0].tolist() == [INSTRUCTION] * 2 + [PROMPT] * 2 + [PADDING] * 3
    assert torch.equal(text.padded(12).trimmed().hidden, text.hidden)
    assert text[[1]].roles.shape == (1, 7)
    assert text.emptied().trimmed().roles.shape == (2, 0)
