"""How far in the border reaches. Run: pytest tests/core/model/test_wide_position.py"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_lidit import random_lidit, random_noise, random_texts

from lidit_core.errors import LiDiTError
from lidit_core.model.config import LiDiTConfig
from lidit_core.model.dit import LiDiT, PositionResBlock

T = torch.tensor([700.0])


def told(*dilations: int, side: int = 24) -> torch.Tensor:
    """The columns (side,) of an empty picture whose tokens differ from the middle's."""
    torch.manual_seed(0)
    x = torch.ones(1, 8, side, side)
    for dilation in dilations:
        x = PositionResBlock(8, dilation)(x)
    return (x[0, :, side // 2] - x[0, :, side // 2, side // 2, None]).abs().amax(0) > 1e-6


@pytest.mark.parametrize("dilations, reach", [((1,), 2), ((1, 4), 10), ((2,), 4)])
def test_the_border_tells_tokens_as_far_in_as_the_docstring_says(dilations, reach):
    columns = told(*dilations)
    assert columns[:reach].all() and columns[-reach:].all()
    assert not columns[reach:-reach].any()


def test_a_new_second_resblock_changes_nothing_and_then_learns():
    without = random_lidit()
    config = replace(without.config, position_dilation=4)
    wide = LiDiT(config).initialise()
    missing, unexpected = wide.load_state_dict(without.state_dict(), strict=False)
    assert not unexpected and all(name.startswith("wide_position.") for name in missing)
    x, text = random_noise(1, 8, 8), random_texts()
    assert torch.equal(wide(x, T, text), without(x, T, text))
    wide(x, T, text).square().mean().backward()
    assert wide.wide_position.conv2.weight.grad.abs().max() > 0


def test_a_file_without_it_is_as_it_was_before():
    config = random_lidit().config
    assert "position_dilation" not in config.to_json()
    wide = replace(config, position_dilation=4)
    assert LiDiTConfig.from_json(wide.to_json()) == wide
    with pytest.raises(LiDiTError, match="position_dilation is -1; expected a number of tokens"):
        replace(config, position_dilation=-1)
