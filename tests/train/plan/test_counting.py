"""What is counted on the meta device against the same on the CPU.

Run: pytest tests/train/plan/test_counting.py
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from real_cost import real_cost
from tiny_lidit import random_lidit
from torch import Tensor, nn

import lidit_train.tasks.lidit.plan.cost
from lidit_core.model.attention import key_bias, scaled_dot_product
from lidit_core.model.layers import SelfAttention
from lidit_train.data.token_guess import TextTokens
from lidit_train.plan.counting import Cost, count
from lidit_train.plan.workload import SampleTokens
from lidit_train.recipe import Lora
from lidit_train.tasks.lidit.plan.cost import model_cost
from lidit_train.tasks.lidit.trained import refiners_of, with_lora


class Mixed(nn.Module):
    """Layers that every autocast lowers, and what lies between them."""

    def __init__(self, device: str) -> None:
        super().__init__()
        with torch.device(device):
            self.conv = nn.Conv2d(3, 32, 3)
            self.attention = SelfAttention(32, 4, qk_norm=False)
            self.layers = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).flatten(2).transpose(1, 2).contiguous()
        x = x + self.attention(x, _lowered_attention)
        return torch.einsum("bld,bld->bl", x, self.layers(x).float())


def _lowered_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask=None) -> Tensor:
    """Attention that autocast lowers, as on a GPU; the library's stays in float32 on a CPU."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("frozen", [False, True])
def test_autocast_is_torchs_own(frozen):
    real, planned = (Mixed(device) for device in ("cpu", "meta"))
    for model in (real, planned):
        model.conv.requires_grad_(not frozen)
    x = torch.randn(2, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        run = real_cost(lambda: real(x), real.parameters())
    cost = count(lambda _: planned(x.to("meta")), planned.parameters(), mixed=True)
    assert (cost.forward, cost.backward) == (run.forward, run.backward)
    first = ("conv.weight", "attention.qkv.weight") if frozen else ()  # no gradient passes them
    matrices = [p for name, p in real.named_parameters() if p.ndim > 1 and name not in first]
    copies = 2 * sum(p.numel() for p in matrices)
    assert cost.saved == pytest.approx(run.saved - copies, rel=0.005)


def test_masks_are_read_and_cost_nothing():
    """A mask on the CPU may be looked at for what is run, and its bias counts for nothing."""
    x = torch.empty(2, 6, 8, device="meta", requires_grad=True)

    def attend(seen: Tensor) -> Cost:
        mask = key_bias(seen, torch.float32, bool(seen.all()))
        return count(lambda _: scaled_dot_product(x, x, x, 2, mask) * seen[..., None], ())

    some, all_of = torch.tensor([[True] * 5 + [False]] * 2), torch.ones(2, 6, dtype=torch.bool)
    assert attend(some) == attend(all_of)
    assert attend(some).forward == 2 * 4 * 6 * 6 * 8


def test_a_model_is_run_once_for_all_that_decides_its_cost(monkeypatch):
    module, runs = lidit_train.tasks.lidit.plan.cost, []

    def counted(*args) -> Cost:
        runs.append(args)
        return count(*args)

    monkeypatch.setattr(module, "count", counted)
    module._model_cost.cache_clear()
    config = random_lidit(llms=1).config
    few, many = (SampleTokens(n, {0: TextTokens(9, 5)}) for n in (16, 20))
    for _ in range(2):
        for sizes in (few, many):
            for trained in (None, refiners_of((0,)), with_lora(Lora(2)), with_lora(Lora(4))):
                model_cost(config, sizes, trained)
    assert len(runs) == 8


def test_few_blocks_are_run_however_deep_the_model_is(monkeypatch):
    module, depths = lidit_train.tasks.lidit.plan.cost, []
    build = module._some_blocks

    def watched(*args):
        depths.append(len(args[-1]))
        return build(*args)

    monkeypatch.setattr(module, "_some_blocks", watched)
    module._model_cost.cache_clear()
    config = random_lidit(llms=1, depth=12).config
    layers = [("blocks",), ("blocks.0",), ("blocks.5",), ("blocks.5", "blocks.6", "blocks.7")]
    for names in layers:
        model_cost(
            config, SampleTokens(16, {0: TextTokens(9, 5)}), with_lora(Lora(2, layers=names))
        )
    assert depths == [2, 1 + 2, 2 + 1 + 2, 2 + 2 + 2]
