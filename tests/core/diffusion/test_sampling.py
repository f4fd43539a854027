"""A sampling does once what is the same at every step. Run: pytest tests/core/diffusion"""

from __future__ import annotations

import pytest
import torch
from tiny_lidit import random_lidit, random_noise, random_texts
from torch.utils._python_dispatch import TorchDispatchMode

from lidit_core.diffusion import sampling
from lidit_core.diffusion.objectives import guided
from lidit_core.diffusion.sampling import euler_steps, sample
from lidit_core.diffusion.times import sampling_times
from lidit_core.model.config import PREDICTIONS
from lidit_core.text.states import LLMStates, stack_states


def test_the_texts_of_a_sampling_are_batched_once(monkeypatch):
    batched = []

    def counted(texts):
        batched.append(len(texts))
        return stack_states(texts)

    monkeypatch.setattr(sampling, "stack_states", counted)
    positive, negative = random_texts(2, 5, 7), random_texts(2, 3, 4)
    sample(random_lidit(2), random_noise(2, 4, 4), positive, negative, 3, 2.0)
    assert batched == [2, 2]  # a branch each
    sample(random_lidit(2), random_noise(2, 4, 4), positive, negative, 3, 1.0)
    assert batched == [2, 2]


@pytest.mark.parametrize("swapped", [False, True])
def test_a_branch_that_one_text_alone_has_is_empty_in_the_other(swapped):
    model, noise = random_lidit(2), random_noise(2, 4, 4)
    both, one = random_texts(2, 5, 7), random_texts(1, 3, 4)
    empty = {1: both[1].emptied()}
    pair = (one, both) if swapped else (both, one)
    whole = ({**one, **empty}, both) if swapped else (both, {**one, **empty})
    assert torch.equal(sample(model, noise, *pair, 2, 3.0), sample(model, noise, *whole, 2, 3.0))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_step_is_the_model_once_with_both_texts_or_with_one(guidance):
    model, noise = random_lidit(1), random_noise(2, 4, 4)
    positive, negative = random_texts(1, 5, 7), random_texts(1, 2, 3)
    found = sample(model, noise, positive, negative, 1, guidance)
    t = torch.full((2,), 1000.0)
    with torch.no_grad():
        asked, unasked = model(noise, t, positive), model(noise, t, negative)
    expected = noise - (asked if guidance == 1 else guided(asked, unasked, guidance))
    assert torch.allclose(found, expected, atol=1e-4)


class Moves(TorchDispatchMode):
    """Counts the tensors that are brought to a device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        self.count += function.overloadpacket.__name__ == "_to_copy" and made.device.type == "meta"
        return made


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_no_step_waits_for_the_device_or_brings_a_tensor_to_it(prediction):
    """On the meta device a look at a number is an error."""
    noise = torch.empty(2, 16, 4, 4, device="meta")
    for steps in (2, 5):
        with Moves() as moves:
            times = sampling_times(prediction, steps, 1.0)
            made = euler_steps(lambda z, t: z, noise, prediction, times)
        assert made.shape == noise.shape and moves.count == 1


def test_records_of_states_are_compared_by_identity():
    states = random_texts(1, 5)[0]
    other = LLMStates(states.hidden, states.roles)
    assert states == states and states != other and states in [other, states]
