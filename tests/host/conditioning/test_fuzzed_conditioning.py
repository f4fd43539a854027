"""Hostile values in CONDITIONING, of a LI-DiT and of an adapter: latents, or one sentence.

`python3 run.py prove fuzzing` tries 1,000 of each, an ordinary run 60. Host's Python.
"""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest
import torch
from fuzz import demand, spoilt

from lidit_core.errors import LiDiTError


@pytest.fixture(scope="module")
def lidit(kit, model):
    """An entry of two LLMs with weights of words and switches, and what samples with it."""
    from dataclasses import replace

    def read(llm: str):
        states = kit.read(llm)
        weights = torch.linspace(0.5, 1.5, states.roles.shape[1])[None]
        return kit.text.BranchText(llm, replace(states, emphasis=weights))

    text = kit.text.PromptText((read("alpha"), read("beta")), fusion="refiner")
    entry = kit.cond.entry_of(text)
    return entry, lambda entry: kit.sample(model, [entry], kit.prompt(), steps=1)


@pytest.fixture(scope="module")
def llmdiff(diff_kit, unet, trained):
    (entry,) = diff_kit.prompt(own=diff_kit.own())
    adapted = diff_kit.apply(unet, trained)
    return entry, lambda entry: diff_kit.sample(adapted, [entry], steps=1)


def odd_tensor(rng: Random, tensor: torch.Tensor) -> Any:
    """Another one in its place, or none."""
    wide = tensor.float()
    others = (
        *(tensor[:, :-1], tensor[:, :0], tensor[..., None], tensor[0], torch.zeros(()), tensor[:0]),
        *(wide * math.nan, wide * math.inf, wide * 1e30, wide.double(), tensor.bool(), wide.half()),
        *(tensor.long(), wide.to(torch.complex64), -tensor, tensor.repeat(3, 1, 1)[..., :2]),
        *(wide.to(torch.float8_e4m3fn), tensor.to(torch.uint16), wide.to_sparse()),
    )
    return rng.choice(others)


def with_odd_tensors(rng: Random, data: Any) -> Any:
    """Some of the tensors in plain data replaced."""
    if isinstance(data, dict):
        return {key: with_odd_tensors(rng, value) for key, value in data.items()}
    return odd_tensor(rng, data) if torch.is_tensor(data) and rng.random() < 0.3 else data


def hostile(rng: Random, entry: list) -> list:
    """The entry with what the pack has put there spoilt; what is the host's own stays.

    The first tensor is the pack's for a LI-DiT; an adapter's entry has the checkpoint's text there.
    """
    c0, values = entry
    ours = {k: v for k, v in values.items() if k.startswith(("lidit", "llmdiff"))}
    assert len(ours) > 4
    changed = with_odd_tensors(rng, ours) if rng.random() < 0.5 else spoilt(rng, ours)
    c0 = odd_tensor(rng, c0) if "lidit_hidden" in ours and rng.random() < 0.1 else c0
    left = {k: v for k, v in values.items() if k not in ours}
    return [c0, {**left, **changed}]


@pytest.mark.parametrize("kind", ["lidit", "llmdiff"])
def test_hostile_conditioning_ends_in_latents_or_a_sentence(kind, pack, request):
    entry, sample = request.getfixturevalue(kind)
    theirs = pack.module("lidit_core.errors").LiDiTError

    def use(made: list) -> None:
        try:
            latents = sample(made)
        except theirs as error:
            raise LiDiTError(str(error)) from error
        assert latents.isfinite().all()

    use(entry)
    demand(f"conditioning of {kind}", lambda rng: hostile(rng, entry), use)
