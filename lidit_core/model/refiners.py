"""The linguistic token refiner of LI-DiT (arXiv 2406.11831, Sec. 3.2), against causal bias.

It depends on the timestep, so it runs inside the denoiser at every step.
Shapes: B samples, L tokens of one LLM, C the LLM's width, D the model's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import LiDiTError
from ..llm.blocks import shown_block
from ..text.spec import LLMSpec
from ..text.states import PADDING, LLMStates
from .attention import MASKED, AttentionFunction, key_bias
from .branch import Branch, masked_mean
from .config import RefinerConfig
from .layers import (
    EPS,
    Modulation,
    SelfAttention,
    TimestepEmbedder,
    TwoLayerMap,
    feed_forward,
    rms_norm,
)
from .taps import RoutedTaps, TapMix, table


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


def causal_bias(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The bias by which a token does not see those after it, (1, 1, L, L)."""
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
    """Makes of one LLM's states refined tokens at the model's width, and the context vector c.

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
        depth: int = 0,
    ) -> None:
        """Make the refiner's layers for one LLM, as the configuration has them.

        Args:
            depth: blocks of the transformer, which matter where taps are routed.
        """
        super().__init__()
        layer = {"operations": operations, "dtype": dtype, "device": device}
        self.llm, self.config = llm, config
        if config.entry_norm:
            self.entry_norm = rms_norm(llm.width, **layer)
        else:
            self.entry_norm = nn.Identity()
        self.entry = operations.Linear(llm.width, width, dtype=dtype, device=device)
        self.t_embedder = TimestepEmbedder(width, **layer) if config.gates == "time" else None
        self.c_embedder = TwoLayerMap(llm.width, width, **layer)
        self.blocks = nn.ModuleList(
            RefinerBlock(width, heads, config.qk_norm, **layer) for _ in range(config.blocks)
        )
        self.taps = TapMix(llm.taps, config.mix, depth, **layer) if llm.taps > 1 else None
        self.registers = None
        if config.registers:
            self.registers = operations.Embedding(
                config.registers, width, dtype=dtype, device=device
            )

    def forward(
        self,
        states: LLMStates,
        t: Tensor,
        dtype: torch.dtype,
        attention: AttentionFunction,
        options: BranchOptions = BRANCH_AS_CONFIGURED,
    ) -> Branch:
        """Refine the tokens by full, gated self-attention against causal bias (paper, Sec. 3.2).

        Args:
            t: timesteps (B,) in [0, 1000].
            dtype: to compute in.
        Returns:
            Tokens (B, L, D), after the registers where there are some, and c (B, D).
        """
        self._check(states)
        seen, all_seen = states.roles != PADDING, states.rows.all_seen
        hidden = self.entered(states, dtype)  # (B, L, C)
        c = self.c_embedder(masked_mean(hidden, seen))  # (B, D)
        if self.t_embedder is not None:
            c = self.t_embedder(t, dtype) + c
        x = self.entry(hidden)  # (B, L, D)
        if self.registers is not None:
            x, seen, all_seen = self._with_registers(x, seen, all_seen)
        mask = self._mask(seen, all_seen, dtype, options)
        gated = self.config.gated if options.gated is None else options.gated
        for block in self.blocks:
            x = block(x, c, attention, mask, gated, options.strength)
        return Branch(
            x,
            seen,
            c,
            all_seen,
            options.weight,
            registers=self.config.registers,
            taps=self._routed(states, dtype),
        )

    @torch.no_grad()
    def initialise_tables(self) -> None:
        """Initialise the mixes of taps and the registers, before training."""
        if self.taps is not None:
            self.taps.initialise()
        if self.registers is not None:
            nn.init.normal_(self.registers.weight, std=0.02)

    def entered(self, states: LLMStates, dtype: torch.dtype) -> Tensor:
        """The normed states that the entry and the context vector are made of: (B, L, C)."""
        if self.taps is None:
            return self.entry_norm(self._as_dtype(states.hidden, dtype))
        return self.taps(self._normed(states)).to(dtype)

    def _normed(self, states: LLMStates) -> Tensor:
        """Every tap by itself, in float32, the gain included: (B, L, K, C)."""
        return self.entry_norm(states.hidden.float().unflatten(-1, (self.llm.taps, -1)))

    def _routed(self, states: LLMStates, dtype: torch.dtype) -> RoutedTaps | None:
        if self.taps is None or self.taps.routes is None:
            return None
        return self.taps.routed(self.entry(self._normed(states).to(dtype)))

    def _with_registers(
        self, x: Tensor, seen: Tensor, all_seen: bool
    ) -> tuple[Tensor, Tensor, bool]:
        """Put the registers before the tokens; a sample without any token has them masked."""
        assert self.registers is not None  # as whoever calls knows
        rows, count = x.shape[0], self.config.registers
        vectors = table(self.registers, x).to(x.dtype).expand(rows, count, -1)
        there = seen.any(dim=1, keepdim=True).expand(rows, count)
        some = all_seen and seen.shape[1] > 0
        return torch.cat([vectors, x], dim=1), torch.cat([there, seen], dim=1), some

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
        if states.width != self.llm.state_width:
            layers = f", blocks {shown_block(self.llm.block)}" if self.llm.taps > 1 else ""
            raise LiDiTError(
                f"the LLM's states are {states.width} wide, but this refiner was trained on "
                f"{self.llm.name} ({self.llm.state_width} wide{layers}): load that LLM, or a "
                "refiner for yours"
            )
