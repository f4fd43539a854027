"""All that a GPU reads of a batch lies in pinned memory. Run: pytest tests/train/data"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass

import pytest
import torch
from torch import Tensor

from lidit_core.text.states import PROMPT, LLMStates
from lidit_train.data.caption_states import CaptionStates
from lidit_train.data.fetching import Fetched, Following


def tensors(value: object, path: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from tensors(each, f"{path}.{key}")
    elif is_dataclass(value):
        for field in fields(value):
            yield from tensors(getattr(value, field.name), f"{path}.{field.name}")


@pytest.fixture
def pinned(monkeypatch) -> set[int]:
    """The addresses of what was pinned; torch can do it only where there is a GPU."""
    found: set[int] = set()

    def pin(tensor: Tensor) -> Tensor:
        made = tensor.clone()
        found.add(made.data_ptr())
        return made

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    return found


def test_every_tensor_that_is_moved_is_pinned(pinned):
    states = LLMStates(torch.randn(2, 3, 4), torch.full((2, 3), PROMPT, dtype=torch.int32))
    fetched = Fetched(
        plan=None,
        pictures=torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
        latents=torch.randn(2, 4, 1, 1),
        texts=["a", "b"],
        states={0: CaptionStates(states, (3, 3))},
        zeroed=torch.tensor([True, False]),
        time=torch.rand(2),
        noise=torch.randn(2, 4, 1, 1),
        content=torch.ones(2, 1, 1),
        counted=torch.ones(2, 1, 1),
        following=Following(torch.randn(4, 1, 1), torch.randn(4, 1, 1), torch.tensor([True])),
        kept=torch.zeros(2, 1),
        features=torch.randn(2, 5, 1, 1),
        replaced=(),
    )
    made = fetched.pin_memory()
    found, before = dict(tensors(made)), dict(tensors(fetched))
    assert set(found) == set(before) and len(found) == 14
    assert [path for path, tensor in found.items() if tensor.data_ptr() not in pinned] == []
    assert all(torch.equal(tensor, before[path]) for path, tensor in found.items())
    assert made.states[0].used == (3, 3) and made.texts == ["a", "b"]
