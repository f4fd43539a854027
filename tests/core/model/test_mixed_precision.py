"""What is computed in float32 is so under autocast too.

Run: pytest tests/core/model/test_mixed_precision.py
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import tiny_bridge
import torch
from torch import Tensor

from lidit_core.bridge.base import LinearBase
from lidit_core.bridge.model import Bridge
from lidit_core.bridge.overlap import means
from lidit_core.llmdiff.langevin import LangevinEncoding
from lidit_core.model.branch import masked_mean
from lidit_core.model.taps import TapMix
from lidit_core.precision import WITH_AUTOCAST, without_autocast

BLOCKS, WIDTH = 4, 16


def normal(*shape: int) -> Tensor:
    """Normal numbers, one of each last dimension as large as an LLM's outliers are."""
    made = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    made[..., 3] *= 300
    return made


def encoded() -> Tensor:
    made, states = LangevinEncoding(BLOCKS, WIDTH), normal(2, 5, (BLOCKS + 1) * WIDTH)
    made.reset(step=1.0035)  # bfloat16 has nothing between 1 and 1.0078
    return made(states)


def mixed() -> Tensor:
    made = TapMix(3, "linear", 2)
    made.initialise()
    return made(normal(2, 5, 3, WIDTH))


def averaged() -> Tensor:
    return masked_mean(normal(2, 7, WIDTH), torch.arange(7) < torch.tensor([[5], [7]]))


def shared() -> Tensor:
    return means(tiny_bridge.rows(), tiny_bridge.students())


def entered() -> Tensor:
    return Bridge.entered_means([tiny_bridge.students()], tiny_bridge.rows())


def ridge() -> Tensor:
    base = base_of_a_bridge()
    return base(normal(4, tiny_bridge.rows().ids.shape[1], 24), tiny_bridge.rows())


def ridge_of_pooled() -> Tensor:
    return base_of_a_bridge().read_pooled(normal(4, 24))


def base_of_a_bridge() -> LinearBase:
    return tiny_bridge.randomised(Bridge(tiny_bridge.config())).base


COMPUTED: Sequence[Callable[[], Tensor]] = (
    encoded,
    mixed,
    averaged,
    shared,
    entered,
    ridge,
    ridge_of_pooled,
)


@pytest.mark.parametrize("made", COMPUTED)
@torch.no_grad()
def test_mixed_precision_changes_no_bit_of_what_is_in_float32(made):
    plain = made()
    with torch.autocast("cpu", torch.bfloat16):
        found = made()
        assert torch.is_autocast_enabled("cpu")
    assert found.dtype == torch.float32 and torch.equal(found, plain)


def test_a_learnt_step_moves_the_encoding_by_less_than_bfloat16_tells():
    made, states = LangevinEncoding(BLOCKS, WIDTH), normal(2, 5, (BLOCKS + 1) * WIDTH)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = []
        for step in (1.0, 1.0035):
            made.reset(step=step)
            found.append(made(states))
    assert not torch.equal(*found)


@pytest.mark.parametrize("kind", [*WITH_AUTOCAST, "meta"])
def test_every_device_has_such_a_context(kind):
    with without_autocast(torch.device(kind)):
        assert torch.ones(2, 2).matmul(torch.ones(2, 2)).dtype == torch.float32
