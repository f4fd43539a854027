"""The form "last": c is the LLM's last state. Run: pytest tests/core/llmdiff/test_last_state.py"""

from __future__ import annotations

import pytest
import torch
from tiny_adapter import (
    BLOCKS,
    WIDTH,
    adapter_config,
    differences,
    latents,
    new_adapter,
    new_learner,
    noised_batch,
    trained_adapter,
)

from lidit_core.errors import LiDiTError
from lidit_core.llmdiff.config import LAST, AdapterConfig
from lidit_core.llmdiff.file import load_adapter, read_adapter_config, write_adapter
from lidit_core.text.spec import LLMSpec
from lidit_core.text.states import LLMStates

LLM = LLMSpec("tiny", WIDTH, -1)
FORM = {"form": LAST, "llm": LLM}


def last(*prompts: int, scale: float = 1.0) -> LLMStates:
    """Random last states."""
    states = differences(*prompts)
    return states.with_hidden(scale * states.hidden[..., :WIDTH])


@torch.no_grad()
def test_c_is_the_last_state_normalised_and_without_noise():
    adapter, states, t = trained_adapter(**FORM), last(3, 5), torch.zeros(2)
    size = (states.hidden.square().mean(-1, keepdim=True) + adapter.norm.eps).sqrt()
    c = states.hidden / size * adapter.norm.weight
    made = adapter.read(states, t)
    torch.testing.assert_close(made.tokens[1], c[1])
    torch.testing.assert_close(made.tokens[0, :3], c[0, :3])
    assert torch.equal(adapter.read(states, t, noisy=True).tokens, made.tokens)
    assert not any(name.startswith("langevin") for name in adapter.state_dict())


@torch.no_grad()
def test_before_training_it_is_the_base_and_then_it_draws():
    z, t = latents(2)
    texts = ["a cat", "two bees"]
    new, trained = new_learner(new_adapter(**FORM)), new_learner(trained_adapter(**FORM))
    base = new.predict(z, t, last(3, 5), texts, mode="base")
    assert torch.equal(new.predict(z, t, last(3, 5), texts, mode="add"), base)
    for mode in ("add", "replace"):
        drawn = trained.predict(z, t, last(3, 5), texts, mode=mode)
        assert torch.isfinite(drawn).all() and not torch.allclose(drawn, base, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_states_beyond_half_precision_are_read(dtype):
    exact, t = trained_adapter(**FORM), torch.zeros(1)
    half = trained_adapter(**FORM).to(dtype)
    expected = exact.read(last(4, scale=1e6), t).tokens
    tokens = half.read(last(4, scale=1e6), t).tokens
    assert tokens.dtype == dtype
    torch.testing.assert_close(tokens.float(), expected, rtol=0.02, atol=0.02)


@torch.no_grad()
def test_a_file_gives_it_back(tmp_path):
    made, path = trained_adapter("sdxl", **FORM), tmp_path / "adapter.safetensors"
    write_adapter(path, made.state_dict(), made.config)
    assert read_adapter_config(path) == made.config
    assert AdapterConfig.from_json(made.config.to_json()) == made.config
    t = torch.full((1,), 400.0)
    torch.testing.assert_close(
        load_adapter(path).read(last(3), t).tokens, made.read(last(3), t).tokens
    )


def test_what_does_not_go_together_is_one_sentence():
    with pytest.raises(LiDiTError, match="block 'differences'; expected -1 for form='last'"):
        adapter_config(form=LAST)
    with pytest.raises(LiDiTError, match="block -1; expected 'differences' for form='direct'"):
        adapter_config(llm=LLM)
    with pytest.raises(LiDiTError, match="load that LLM with layer '-1'"):
        new_adapter(**FORM).read(differences(3), torch.zeros(1))
    with pytest.raises(LiDiTError, match="load that LLM with layer 'all'"):
        new_adapter().read(last(3), torch.zeros(1))
    assert adapter_config().states_width == (BLOCKS + 1) * WIDTH


def test_noise_that_is_switched_off_is_not_drawn_and_its_size_does_not_learn():
    batch = noised_batch(0, ["a cat", "two bees"])
    quiet, noisy = (new_learner(trained_adapter(), noisy=noisy) for noisy in (False, True))
    for learner in (quiet, noisy):
        with torch.no_grad():
            learner.adapter.langevin.h.fill_(2.0)
    losses = [float(learner(batch)[0].detach()) for learner in (quiet, noisy, quiet)]
    assert losses[0] == losses[2] and abs(losses[0] - losses[1]) > 1e-4
    quiet(batch)[0].backward()
    assert quiet.adapter.langevin.h.grad is None and quiet.adapter.langevin.g.grad is not None
    assert quiet.noted() == {} and noisy.noted()["langevin noise"] > 0
