"""Several layers of an LLM, registers, and gates without time. Run: pytest -k test_taps"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_lidit import LLM_WIDTH as C
from tiny_lidit import lidit_config, random_lidit, random_noise, random_states, randomise

from lidit_core.checkpoints.lidit import load_lidit, save_lidit
from lidit_core.errors import LiDiTError
from lidit_core.model.attention import scaled_dot_product
from lidit_core.model.config import RefinerConfig
from lidit_core.model.dit import LiDiT
from lidit_core.text.spec import LLMSpec
from lidit_core.text.states import stack_states

TAPS = (-3, -9, -15)
MIXES = ("mean", "linear", "routed")


def model_of(mix: str = "mean", llms: int = 2, blocks=TAPS, start=False, **switches) -> LiDiT:
    """The second LLM is read at one block."""
    specs = (LLMSpec("llm 0", C, blocks), LLMSpec("llm 1", C))[:llms]
    config = replace(lidit_config("x"), llms=specs, refiner=RefinerConfig(mix=mix, **switches))
    model = randomise(LiDiT(config))
    if start:
        for refiner in model.text_side.linguistic:
            refiner.initialise_tables()
    return model.eval()


def text_of(llms: int = 2, *lengths: int, taps: int = len(TAPS)):
    widths = (C * taps, C)
    lengths = lengths or (7,)
    return {i: random_states(*lengths, width=widths[i], seed=i) for i in range(llms)}


def step(model: LiDiT, text) -> torch.Tensor:
    rows = len(text[0])
    with torch.no_grad():
        return model(random_noise(rows, 8, 8), torch.full((rows,), 700.0), text)


def context(model: LiDiT, text, t=700.0):
    times = torch.full((len(text[0]),), t)
    with torch.no_grad():
        return model.text_side(text, times, torch.float32, scaled_dot_product)


def literal_mix(refiner, hidden: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """e(sum of a_k n_k), as the formula has it."""
    taps = hidden.float().chunk(len(shares), dim=-1)
    normed = [h * (h.square().mean(-1, keepdim=True) + 1e-6).rsqrt() for h in taps]
    mixed = sum(a * n for a, n in zip(shares, normed, strict=True))
    gained = refiner.entry_norm.weight * mixed
    return gained @ refiner.entry.weight.T + refiner.entry.bias


@pytest.mark.parametrize("mix", MIXES)
def test_the_mix_is_the_formulas(mix):
    model = model_of(mix, llms=1)
    refiner, states = model.text_side.linguistic[0], text_of(1)[0]
    shares = torch.full((3,), 1 / 3)
    if mix == "linear":
        shares = refiner.taps.linear.weight[0].detach()
        assert (shares - 1 / 3).abs().max() > 0.1  # random, of any sign
    with torch.no_grad():
        found = refiner.entry(refiner.entered(states, torch.float32))
        assert torch.allclose(found, literal_mix(refiner, states.hidden, shares), atol=1e-5)


def test_every_block_reads_its_own_route():
    model, text = model_of("routed", llms=1), text_of(1)
    refiner, out = model.text_side.linguistic[0], context(model, text)
    mean = literal_mix(refiner, text[0].hidden, torch.full((3,), 1 / 3))[:, 2:]
    delta = out.tokens - mean
    for index in range(model.config.depth):
        alpha = refiner.taps.routes.weight[index].softmax(0).detach()
        expected = literal_mix(refiner, text[0].hidden, alpha)[:, 2:] + delta
        assert torch.allclose(out.of_block(index).tokens, expected, atol=1e-5)
    assert not torch.allclose(out.of_block(0).tokens, out.of_block(1).tokens, atol=1e-3)


@pytest.mark.parametrize("mix", MIXES)
def test_every_mix_is_the_mean_at_the_start(mix):
    text = text_of(2, 7, 9)
    mean = model_of("mean")
    model = model_of(mix, start=True)
    model.load_state_dict({**model.state_dict(), **mean.state_dict()})
    difference = (step(model, text) - step(mean, text)).abs().max()
    assert difference <= 1e-6 * step(mean, text).abs().max()


def test_what_learns_moves_the_picture():
    text = text_of()
    for mix in ("linear", "routed"):
        model = model_of(mix)
        out = model(random_noise(1, 8, 8), torch.tensor([700.0]), text)
        out.square().mean().backward()
        table = model.text_side.linguistic[0].taps
        gradient = (table.linear or table.routes).weight.grad
        assert gradient.abs().max() > 0


@pytest.mark.parametrize("mix", MIXES)
def test_with_one_tap_all_are_todays_path_to_the_bit(mix):
    today = random_lidit(2)
    config = replace(today.config, refiner=RefinerConfig(mix=mix))
    llms = tuple(replace(llm, block=(-3,)) for llm in config.llms)
    model = LiDiT(replace(config, llms=llms)).eval()
    assert model.config.llms == today.config.llms
    model.load_state_dict(today.state_dict())
    text = {i: random_states(7, 9, seed=i) for i in range(2)}
    assert torch.equal(step(model, text), step(today, text))


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("registers", [0, 2])
def test_different_lengths_in_one_batch_give_what_they_give_alone(mix, registers):
    model, text = model_of(mix, registers=registers), text_of(2, 6, 11)
    both = context(model, text)
    for row in range(2):
        alone = context(model, {i: s[row : row + 1].trimmed() for i, s in text.items()})
        seen = both.bias[row, 0, 0] == 0
        for index in range(2):
            one, two = both.of_block(index).tokens[row, seen], alone.of_block(index).tokens[0]
            assert (one - two).abs().max() <= 1e-5
        assert (both.pooled[row] - alone.pooled[0]).abs().max() <= 1e-5


def test_states_of_other_widths_get_one_sentence():
    with pytest.raises(LiDiTError, match="72 wide, blocks -3,-9,-15"):
        step(model_of(llms=1), text_of(1, taps=1))
    with pytest.raises(LiDiTError, match="without entry_norm"):
        model_of(entry_norm=False)
    with pytest.raises(LiDiTError, match="different whole numbers"):
        LLMSpec("x", C, (-3, -3))
    for field in ({"mix": "sum"}, {"registers": -1}, {"gates": "off"}):
        with pytest.raises(LiDiTError, match=f"refiner has {next(iter(field))}="):
            RefinerConfig(**field)


@pytest.mark.parametrize("changes", [{"mix": "linear"}, {"mix": "routed"}, {"registers": 3}])
def test_a_checkpoint_carries_it(changes, tmp_path):
    model = model_of(**changes, gates="none")
    save_lidit(model, model.config, tmp_path / "model.safetensors")
    again = load_lidit(tmp_path / "model.safetensors").eval()
    assert again.config == model.config and again.config.llms[0].block == TAPS
    assert torch.equal(step(again, text_of()), step(model, text_of()))


# Registers


def test_registers_stand_before_the_tokens_and_are_kept_or_not():
    text = text_of(1, 7)
    kept, dropped = (model_of(llms=1, registers=4, registers_kept=keep) for keep in (True, False))
    dropped.load_state_dict(kept.state_dict())
    with_them, without = context(kept, text), context(dropped, text)
    assert with_them.tokens.shape[1] == 4 + 5 and without.tokens.shape[1] == 5
    assert torch.equal(with_them.tokens[:, 4:], without.tokens)
    assert torch.equal(with_them.pooled, without.pooled)
    assert torch.allclose(without.pooled, without.tokens.mean(dim=1), atol=1e-6)
    none = model_of(llms=1)
    changed = {k: v for k, v in kept.state_dict().items() if "registers" not in k}
    none.load_state_dict(changed)
    assert not torch.allclose(
        context(none, text).tokens, without.tokens, atol=1e-3
    )  # they are read


def test_registers_are_left_out_of_c():
    model, text = model_of(llms=1, registers=4), text_of(1)
    refiner = model.text_side.linguistic[0]
    given = text[0], torch.tensor([700.0]), torch.float32, scaled_dot_product
    with torch.no_grad():
        before = refiner(*given).c
        refiner.registers.weight.mul_(7)
        assert torch.equal(refiner(*given).c, before)


def test_a_sample_without_any_token_has_no_register():
    model, text = model_of(registers=3), text_of(2, 7)
    empty = {i: of.emptied() for i, of in text.items()}
    alone = context(model, empty)
    assert torch.equal(alone.present, torch.zeros(1, 1, 1))
    assert torch.equal(alone.pooled, torch.zeros_like(alone.pooled))
    both = {i: stack_states([text[i], empty[i]]) for i in text}
    assert (context(model, both).bias[1] < -1000).all()
    left_out = context(model, {0: text[0]})
    other_empty = context(model, {0: text[0], 1: empty[1]})
    assert (other_empty.bias[0, 0, 0, left_out.tokens.shape[1] :] < -1000).all()
    assert torch.allclose(other_empty.pooled, left_out.pooled, atol=1e-5)


# Gates


def test_gates_without_time_do_not_depend_on_it():
    text = text_of()
    with_time, without = model_of(), model_of(gates="none")
    early, late = (context(with_time, text, t).tokens for t in (10.0, 900.0))
    assert not torch.allclose(early, late)
    early, late = (context(without, text, t).tokens for t in (10.0, 900.0))
    assert torch.equal(early, late)
    assert not any("linguistic" in k and "t_embedder" in k for k in without.state_dict())


@pytest.mark.long
@pytest.mark.parametrize("mix", MIXES)
def test_it_compiles_as_one_graph(mix):
    torch._dynamo.reset()
    model = model_of(mix, registers=2)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    text = text_of(2, 8, 6)
    difference = (step(compiled, text) - step(model, text)).abs().max()
    assert difference <= 1e-5 * step(model, text).abs().max()
