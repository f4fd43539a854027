"""One LLM's tokens on their way through the text side, and how several of them are weighed.

Shapes: B samples, L tokens of one LLM, D the model's width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..precision import without_autocast
from .attention import MASKED, key_bias
from .taps import RoutedTaps


@dataclass(frozen=True, eq=False)
class Branch:
    """One LLM's tokens on their way through the refiners."""

    tokens: Tensor  # (B, L, D)
    seen: Tensor  # (B, L) bool, False = padding
    c: Tensor  # (B, D) the context vector: timestep and pooled text
    all_seen: bool  # every token is seen
    weight: float = 1.0  # see `BranchOptions`
    emphasis: Tensor | None = None  # (B, L) weights above 0 of tokens; None = 1 for all
    registers: int = 0  # of the tokens, the first ones that are no text
    taps: RoutedTaps | None = None  # what the transformer's blocks read beside the tokens

    def with_tokens(self, tokens: Tensor) -> "Branch":
        return replace(self, tokens=tokens)

    @property
    def holds(self) -> Tensor:
        """The samples that have a token in this branch: (B,) bool."""
        return self.seen.any(dim=1)


def pooled(branch: Branch) -> Tensor:
    """The mean of the text's tokens by their weights, registers left out: (B, D)."""
    r, emphasis = branch.registers, branch.emphasis
    if not r:
        return masked_mean(branch.tokens, branch.seen, emphasis)
    emphasis = None if emphasis is None else emphasis[:, r:]
    return masked_mean(branch.tokens[:, r:], branch.seen[:, r:], emphasis)


def masked_mean(x: Tensor, seen: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean over the tokens seen: (B, L, D), (B, L) -> (B, D); zero where there are none.

    Args:
        weights: (B, L), how much each token counts; None = all alike.
    """
    if weights is None:
        share = seen.float() / seen.sum(dim=1, keepdim=True).clamp(min=1)
    else:
        share = F.normalize(seen * weights.float(), p=1, dim=1)
    with without_autocast(x.device):
        return torch.einsum("bl,bld->bd", share, x.float()).to(x.dtype)


def branch_bias(branches: Sequence[Branch]) -> Tensor | None:
    """The bias of some branches' keys in a row, see `key_bias`; log w for a weight w."""
    seen, dtype = torch.cat([b.seen for b in branches], dim=1), branches[0].tokens.dtype
    bias = key_bias(seen, dtype, all(b.all_seen for b in branches))
    if not weighted(branches):
        return bias
    logs = [b.tokens.new_full((b.tokens.shape[1],), _log(b.weight)) for b in branches]
    logs = torch.cat(logs)[None, None, None]
    return logs if bias is None else bias + logs


def branch_shares(branches: Sequence[Branch]) -> Tensor:
    """Each branch's share of a pooled text by weight, (N, B); 0 where it holds no token."""
    holds = torch.stack([branch.holds for branch in branches])
    logs = torch.tensor([[_log(branch.weight)] for branch in branches], device=holds.device)
    return torch.softmax(logs + (~holds).float() * MASKED, dim=0) * holds


def weighted(branches: Sequence[Branch]) -> bool:
    """Whether weights differ: a constant cancels, and one of 0 has emptied its branch."""
    return len({branch.weight for branch in branches if branch.weight}) > 1


def _log(weight: float) -> float:
    """The logarithm of a weight; a branch of weight 0 holds no token, so any number serves it."""
    return math.log(weight or 1.0)
