"""What a batch's text becomes on the device. Run: pytest tests/train/data/test_loader.py"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from lidit_core.text.states import INSTRUCTION, PROMPT, LLMStates
from lidit_train.data.loader import Loader


def loader(device: str) -> Loader:
    nothing: Any = SimpleNamespace(schedule=None, vae=None, vision=None)
    return Loader(nothing, nothing, device)


def states() -> LLMStates:
    roles = torch.tensor([[INSTRUCTION, PROMPT, PROMPT], [INSTRUCTION, PROMPT, 0]])
    return LLMStates(torch.ones(2, 3, 4, dtype=torch.bfloat16), roles.to(torch.int32))


def test_a_zeroed_row_has_no_token():
    text = loader("cpu")._text(states(), torch.tensor([False, True]))
    assert text.roles.tolist() == [[INSTRUCTION, PROMPT, PROMPT], [0, 0, 0]]
    assert text.hidden.dtype == torch.float32
    assert text.rows == LLMStates(text.hidden, text.roles).rows


def test_rows_are_known_without_a_look_at_the_device():
    """A tensor on the meta device has no numbers, so that a look at them would raise."""
    zeroed = torch.tensor([False, True])
    text = loader("meta")._text(states(), zeroed)
    assert text.roles.device.type == "meta"
    assert text.rows == loader("cpu")._text(states(), zeroed).rows
