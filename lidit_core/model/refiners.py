"""The two refiners of LI-DiT (arXiv 2406.11831, Sec. 3.2), which undo an LLM's causal bias.

Both depend on the timestep, so they run inside the denoiser at every step.
Shapes: B samples, L tokens of one LLM, K of the others, C the LLM's width, D the model's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import LiDiTError
from ..text.spec import LLMSpec
from ..text.states import PADDING, LLMStates
from .attention import MASKED, AttentionFunction, key_bias
from .config import RefinerConfig
from .layers import (
    EPS,
    CrossAttention,
    Modulation,
    SelfAttention,
    TimestepEmbedder,
    TwoLayerMap,
    feed_forward,
    modulate,
    plain_norm,
    rms_norm,
)
from .lists import ListOf


@dataclass(frozen=True)
class BranchOptions:
    """How one branch is used for this call; None keeps what the configuration says."""

    full_attention: bool | None = None
    gated: bool | None = None
    strength: float = 1.0  # scales both gates of every refiner block; 0 = no refiner
    weight: float = 1.0  # of the branch beside the others: 1 = as trained, 0 = it is removed

    def __post_init__(self) -> None:
        if not (self.weight >= 0 and math.isfinite(self.weight)):
            raise LiDiTError(f"a branch has weight {self.weight}; expected 0 (removed) or more")
        if not math.isfinite(self.strength):
            raise LiDiTError(f"a branch has strength {self.strength}; expected a number, 0 = off")


BRANCH_AS_CONFIGURED = BranchOptions()
LARGEST_IN_FLOAT16 = 1000.0  # of a state, with room for what a norm computes from it


@dataclass(frozen=True)
class Branch:
    """One LLM's tokens on their way through the refiners."""

    tokens: Tensor  # (B, L, D)
    seen: Tensor  # (B, L) bool, False = padding
    c: Tensor  # (B, D) the context vector: timestep and pooled text
    full: bool  # every token is seen
    weight: float = 1.0  # see `BranchOptions`
    emphasis: Tensor | None = None  # (B, L) weights above 0 of tokens; None = 1 for all

    def with_tokens(self, tokens: Tensor) -> "Branch":
        return replace(self, tokens=tokens)

    @property
    def holds(self) -> Tensor:
        """Which samples have a token here: (B,) bool."""
        return self.seen.any(dim=1)


def masked_mean(x: Tensor, seen: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean over the tokens seen: (B, L, D), (B, L) -> (B, D); zero where there are none.

    Args:
        weights: (B, L), how much each token counts; None = all alike.
    """
    if weights is None:
        share = seen.float() / seen.sum(dim=1, keepdim=True).clamp(min=1)
    else:
        share = F.normalize(seen * weights.float(), p=1, dim=1)
    return torch.einsum("bl,bld->bd", share, x.float()).to(x.dtype)


def causal_bias(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(1, 1, L, L): a token does not see those after it."""
    later = torch.ones(length, length, dtype=torch.bool, device=device).triu(1)
    return (later.to(dtype) * MASKED)[None, None]


class RefinerBlock(nn.Module):
    """Self-attention and FFN, each multiplied by a gate computed from c (HunyuanVideo's block)."""

    def __init__(
        self, width: int, heads: int, qk_norm=True, operations=nn, dtype=None, device=None
    ) -> None:
        super().__init__()
        layer = {"operations": operations, "dtype": dtype, "device": device}
        self.norm1 = operations.LayerNorm(width, eps=EPS, dtype=dtype, device=device)
        self.self_attn = SelfAttention(width, heads, qk_norm, **layer)
        self.norm2 = operations.LayerNorm(width, eps=EPS, dtype=dtype, device=device)
        self.mlp = feed_forward(width, nn.SiLU(), **layer)
        self.gates = Modulation(width, 2, **layer)

    def forward(
        self,
        x: Tensor,
        c: Tensor,
        attention: AttentionFunction,
        mask: Tensor | None,
        gated: bool,
        strength: float,
    ) -> Tensor:
        attn_gate, mlp_gate = self.gates(c) if gated else (1.0, 1.0)  # (B, 1, D) each
        x = x + self.self_attn(self.norm1(x), attention, mask) * (attn_gate * strength)
        return x + self.mlp(self.norm2(x)) * (mlp_gate * strength)


class LinguisticTokenRefiner(nn.Module):
    """One LLM's states -> refined tokens at the model's width, and the context vector c.

    The entry (RMSNorm and a linear map) and the maps of c are ours, see the specification.
    """

    def __init__(
        self,
        llm: LLMSpec,
        width: int,
        heads: int,
        config: RefinerConfig,
        operations=nn,
        dtype=None,
        device=None,
    ) -> None:
        super().__init__()
        layer = {"operations": operations, "dtype": dtype, "device": device}
        self.llm, self.config = llm, config
        if config.entry_norm:
            self.entry_norm = rms_norm(llm.width, **layer)
        else:
            self.entry_norm = nn.Identity()
        self.entry = operations.Linear(llm.width, width, dtype=dtype, device=device)
        self.t_embedder = TimestepEmbedder(width, **layer)
        self.c_embedder = TwoLayerMap(llm.width, width, **layer)
        self.blocks = nn.ModuleList(
            RefinerBlock(width, heads, config.qk_norm, **layer) for _ in range(config.blocks)
        )

    def forward(
        self,
        states: LLMStates,
        t: Tensor,
        dtype: torch.dtype,
        attention: AttentionFunction,
        options: BranchOptions = BRANCH_AS_CONFIGURED,
    ) -> Branch:
        """Args: t (B,) in [0, 1000]; dtype to compute in. Returns tokens (B, L, D) and c."""
        self._check(states)
        seen = states.roles != PADDING
        hidden = self.entry_norm(self._as_dtype(states.hidden, dtype))  # (B, L, C)
        c = self.t_embedder(t, dtype) + self.c_embedder(masked_mean(hidden, seen))  # (B, D)
        x = self.entry(hidden)  # (B, L, D)
        mask = self._mask(seen, states.rows.full, dtype, options)
        gated = self.config.gated if options.gated is None else options.gated
        for block in self.blocks:
            x = block(x, c, attention, mask, gated, options.strength)
        return Branch(x, seen, c, states.rows.full, options.weight)

    def _as_dtype(self, hidden: Tensor, dtype: torch.dtype) -> Tensor:
        """Tokens beyond float16's range are made smaller first; the RMSNorm ignores their scale."""
        if dtype == torch.float16 and self.config.entry_norm:
            largest = hidden.abs().amax(dim=-1, keepdim=True)
            hidden = hidden / (largest / LARGEST_IN_FLOAT16).clamp(min=1)
        return hidden.to(dtype)

    def _mask(
        self, seen: Tensor, all_seen: bool, dtype: torch.dtype, options: BranchOptions
    ) -> Tensor | None:
        full = self.config.full_attention
        if options.full_attention is not None:
            full = options.full_attention
        padding = key_bias(seen, dtype, all_seen)
        if full:
            return padding
        causal = causal_bias(seen.shape[1], dtype, seen.device)
        return causal if padding is None else causal + padding

    def _check(self, states: LLMStates) -> None:
        if states.width != self.llm.width:
            raise LiDiTError(
                f"the LLM's states are {states.width} wide, but this refiner was trained on "
                f"{self.llm.name} ({self.llm.width} wide): load that LLM, or a refiner for yours"
            )


@dataclass(frozen=True)
class Others:
    """The tokens that a branch reads of the others."""

    tokens: Tensor  # (B, K, D)
    bias: Tensor | None  # (B, 1, 1, K), or None where every token counts equally
    share: Tensor  # (B, 1, 1) in 0 to 1, what is taken of what is read; 0 = there is no other


class CollaborativeBlock(nn.Module):
    """One branch reads the others (cross-attention, then FFN), both modulated by its own c."""

    def __init__(
        self, width: int, heads: int, qk_norm=True, operations=nn, dtype=None, device=None
    ) -> None:
        super().__init__()
        layer = {"operations": operations, "dtype": dtype, "device": device}
        self.query_norm = plain_norm(width, **layer)
        self.others_norm = plain_norm(width, **layer)
        self.cross_attn = CrossAttention(width, heads, qk_norm, **layer)
        self.mlp_norm = plain_norm(width, **layer)
        self.mlp = feed_forward(width, nn.SiLU(), **layer)
        self.modulation = Modulation(width, 6, **layer)

    def forward(
        self,
        branch: Branch,
        others: Others,
        attention: AttentionFunction,
    ) -> Tensor:
        """Read the other branches; returns (B, L, D).

        A sample whose other branches hold no token passes unchanged, as with one LLM.
        """
        x = branch.tokens
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(branch.c)
        gate1, gate2 = gate1 * others.share, gate2 * others.share
        query, read = modulate(self.query_norm(x), shift1, scale1), self.others_norm(others.tokens)
        x = x + gate1 * self.cross_attn(query, read, attention, others.bias)
        return x + gate2 * self.mlp(modulate(self.mlp_norm(x), shift2, scale2))


class CollaborativeRefiner(nn.Module):
    """N parallel branches, each reading the others as they were at the block's input."""

    def __init__(
        self,
        branches: int,
        width: int,
        heads: int,
        config: RefinerConfig,
        operations=nn,
        dtype=None,
        device=None,
    ) -> None:
        super().__init__()
        layer = {"operations": operations, "dtype": dtype, "device": device}
        blocks = config.collaborative_blocks if branches > 1 else 0
        self.blocks = blocks
        self.branches = ListOf(
            ListOf(CollaborativeBlock(width, heads, config.qk_norm, **layer) for _ in range(blocks))
            for _ in range(branches)
        )

    def forward(
        self, branches: Mapping[int, Branch], attention: AttentionFunction
    ) -> dict[int, Branch]:
        """The same branches, fused; with one of them this is the identity."""
        branches = dict(branches)
        if len(branches) < 2:
            return branches
        for n in range(self.blocks):
            branches = {
                i: branch.with_tokens(self.branches[i][n](branch, _others(branches, i), attention))
                for i, branch in branches.items()
            }
        return branches


def _others(branches: Mapping[int, Branch], i: int) -> Others:
    """Those of every branch but i."""
    others = [branch for j, branch in branches.items() if j != i]
    return Others(torch.cat([b.tokens for b in others], dim=1), branch_bias(others), _share(others))


def branch_bias(branches: Sequence[Branch]) -> Tensor | None:
    """Of the keys of some branches, one after the other: see `key_bias`; log w for a weight w."""
    seen, dtype = torch.cat([b.seen for b in branches], dim=1), branches[0].tokens.dtype
    bias = key_bias(seen, dtype, all(b.full for b in branches))
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
    """Its logarithm; a removed branch holds no token, so its number does not matter."""
    return math.log(weight or 1.0)


def _share(others: Sequence[Branch]) -> Tensor:
    """The largest weight of those that hold a token, at most 1: (B, 1, 1).

    A constant on every key of the only other branch cancels in the softmax, so without this factor
    a weight near 0 would be far from a branch that is removed.
    """
    shares = [b.holds.to(b.tokens.dtype) * min(b.weight or 1.0, 1.0) for b in others]
    return torch.stack(shares).amax(dim=0)[:, None, None]
