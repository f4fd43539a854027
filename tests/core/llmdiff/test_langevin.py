"""LLMDiff's encoding equals its loop. Run: pytest tests/core/llmdiff/test_langevin.py"""

from __future__ import annotations

import pytest
import torch
from tiny_llm import save_llm

from lidit_core.errors import LiDiTError
from lidit_core.llm.loading import load_llm
from lidit_core.llmdiff.langevin import LANGEVIN, LangevinEncoding
from lidit_core.text.encoder import LLMEncoder

B, L, T, C = 2, 5, 4, 8


@pytest.fixture
def states():
    return torch.randn(B, L, (T + 1) * C, generator=torch.Generator().manual_seed(0))


def encoding(form: str = "direct", **options) -> LangevinEncoding:
    """One with steps and noises that differ from block to block."""
    torch.manual_seed(1)
    made = LangevinEncoding(T, C, form, **options)
    with torch.no_grad():
        made.g.normal_()
        made.h.normal_()
    return made


def literal(made: LangevinEncoding, states: torch.Tensor, eps: torch.Tensor | None = None):
    """The recursion as the paper writes it, block after block."""
    c, *deltas = states.unflatten(-1, (T + 1, C)).unbind(-2)
    before = torch.zeros_like(c)
    for block, delta in enumerate(deltas):
        c = c + made.g[block] * (delta if made.form == "direct" else before - delta)
        if eps is not None:
            c = c + (2 * torch.log1p(made.h[block].exp())).sqrt() * eps[block]
        before = delta
    return c


@pytest.mark.parametrize("form", LANGEVIN)
def test_equal_to_the_loop(form, states):
    made = encoding(form)
    c = made(states)
    assert c.shape == (B, L, C) and torch.allclose(c, literal(made, states), atol=1e-5)
    assert torch.equal(c, made(states))


def test_consecutive_is_the_direct_form_with_other_steps(states):
    """Both ways: without noise either form gives what the other can."""
    direct, consecutive = encoding("direct"), encoding("consecutive")
    with torch.no_grad():
        direct.g.copy_(consecutive.weights)
    assert torch.allclose(direct(states), consecutive(states), atol=1e-5)
    with torch.no_grad():
        direct.g.normal_()
        consecutive.g.copy_(-direct.g.flip(0).cumsum(0).flip(0))
    assert torch.allclose(direct(states), consecutive(states), atol=1e-5)


def test_before_training(states):
    """Direct adds all differences; of consecutive only the last is left."""
    x, *deltas = states.unflatten(-1, (T + 1, C)).unbind(-2)
    assert torch.allclose(LangevinEncoding(T, C)(states), x + sum(deltas), atol=1e-5)
    last = LangevinEncoding(T, C, "consecutive")(states)
    assert torch.allclose(last, x - deltas[-1], atol=1e-5)
    made = LangevinEncoding(T, C)
    assert torch.allclose(made.deviations, torch.full((T,), 0.002).sqrt(), rtol=1e-4)
    made.reset(step=-2.0, noise=0.5)
    assert torch.allclose(made.deviations, torch.ones(T)) and (made.g == -2).all()


def test_noise_has_the_variance_of_all_blocks_together(states):
    """As the loop's over many draws; each draw is seeded, and none without being asked for."""
    made, wide = encoding(), states[:1, :1].expand(1, 4000, -1)
    first, again = (made(wide, torch.Generator().manual_seed(3), noisy=True) for _ in range(2))
    assert torch.equal(first, again)
    noise = (first - made(wide)).detach()
    looped = literal(made, wide, torch.randn(T, 1, 4000, C)) - literal(made, wide)
    expected = made.deviations.square().sum().sqrt()
    for drawn in (noise, looped):
        assert drawn.mean().abs() < 0.02 * expected
        assert abs(drawn.std() / expected - 1) < 0.02
    assert not torch.equal(made(states, noisy=True), made(states, noisy=True))


def test_noise_fades_with_h(states):
    made = encoding()
    made.reset(noise=1e-20)
    assert torch.allclose(made(states, noisy=True), made(states), atol=1e-6)
    with torch.no_grad():
        made.h.fill_(-200.0)
    noisy = made(states, noisy=True)
    assert torch.equal(noisy, made(states)) and made.deviations.max() == 0
    noisy.sum().backward()
    assert torch.isfinite(made.h.grad).all()


def test_steps_and_noises_learn(states):
    made = encoding("consecutive")
    made(states, noisy=True).square().sum().backward()
    for parameter in (made.g, made.h):
        assert torch.isfinite(parameter.grad).all() and (parameter.grad != 0).all()
    assert sorted(made.state_dict()) == ["g", "h"]


def test_computed_in_float32_and_given_in_the_parameters_dtype(states):
    made = encoding()
    low = made(states.bfloat16())
    assert low.dtype == torch.float32
    assert torch.allclose(low, literal(made, states.bfloat16().float()), atol=1e-5)
    assert encoding(dtype=torch.float16)(states).dtype == torch.float16


def test_bad_input(states):
    with pytest.raises(LiDiTError, match="'both'; expected one of direct, consecutive"):
        LangevinEncoding(T, C, "both")
    with pytest.raises(LiDiTError, match="40 wide; expected 6 x 8"):
        LangevinEncoding(T + 1, C)(states)


@pytest.mark.parametrize("form", LANGEVIN)
def test_first_token_of_a_text_keeps_its_embedding(form, tmp_path):
    llm = load_llm(save_llm(tmp_path / "llm"), "differences", torch.float32)
    states = LLMEncoder(llm, "short").encode(["two bees", "a cat"]).hidden
    made = LangevinEncoding(llm.blocks, llm.width, form)
    c, embeddings = made(states), states[..., : llm.width]
    assert torch.allclose(c[:, 0], embeddings[:, 0], atol=1e-5)
    assert not torch.isclose(c[:, 1], embeddings[:, 1], atol=1e-3).all(dim=-1).any()
