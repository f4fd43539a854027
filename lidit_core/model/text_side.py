"""Refines, fuses and truncates the states of N LLMs, and mixes them into what image tokens read."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import LiDiTError, shown
from ..text.spec import LLMSpec
from ..text.states import LLMStates, check_text, without_instruction
from .attention import AttentionFunction
from .branch import Branch, branch_bias, branch_shares, pooled, weighted
from .collaborative import CollaborativeRefiner
from .config import FUSIONS, RefinerConfig
from .lists import ListOf
from .refiners import BranchOptions, LinguisticTokenRefiner
from .taps import RoutedTaps, added_by_block


@dataclass(frozen=True)
class TextOptions:
    """How the text is used for this call; None keeps what the configuration says."""

    branches: Mapping[int, BranchOptions] = field(default_factory=dict)  # missing = defaults
    fusion: str | None = None

    def __post_init__(self) -> None:
        if self.fusion not in (None, *FUSIONS):
            raise LiDiTError(
                f"fusion is {shown(self.fusion)}; expected one of {', '.join(FUSIONS)}"
            )

    def of(self, branch: int) -> BranchOptions:
        return self.branches.get(branch, BranchOptions())


TEXT_AS_CONFIGURED = TextOptions()


@dataclass(frozen=True, eq=False)
class TextContext:
    """Refined, truncated, concatenated: keys and values of the model's cross-attention."""

    tokens: Tensor  # (B, K, D)
    bias: Tensor | None  # (B, 1, 1, K), or None where every token counts equally
    present: Tensor | None  # (B, 1, 1): 0 for a sample without any token, or None
    pooled: Tensor  # (B, D): mean by weight over branches of each one's mean over its tokens
    taps: tuple[tuple[Tensor, RoutedTaps | None], ...] = ()  # of each branch, where they are routed

    def of_block(self, index: int) -> TextContext:
        """What one block of the transformer reads."""
        if not self.taps:
            return self
        return replace(self, tokens=self.tokens + added_by_block(self.taps, index), taps=())


class TextSide(nn.Module):
    """The LLM-infused diffuser's text half (paper, Figure 5): one refiner a branch, one fusion."""

    def __init__(
        self,
        llms: tuple[LLMSpec, ...],
        width: int,
        heads: int,
        config: RefinerConfig,
        operations=nn,
        dtype=None,
        device=None,
        depth: int = 0,
    ) -> None:
        """Make one linguistic refiner for each LLM, and the collaborative refiner.

        Args:
            depth: blocks of the transformer that reads the text.
        """
        super().__init__()
        layer = {"operations": operations, "dtype": dtype, "device": device}
        self.config = config
        self.width = width
        self.linguistic = ListOf(
            LinguisticTokenRefiner(llm, width, heads, config, **layer, depth=depth) for llm in llms
        )
        self.collaborative = CollaborativeRefiner(len(llms), width, heads, config, **layer)

    def forward(
        self,
        text: Mapping[int, LLMStates],
        t: Tensor,
        dtype: torch.dtype,
        attention: AttentionFunction,
        options: TextOptions = TEXT_AS_CONFIGURED,
    ) -> TextContext:
        """Refine and fuse the branches, drop the instructions, join the rest (paper, Figure 5).

        Args:
            text: states by branch.
            t: timesteps (B,) in [0, 1000].
            dtype: to compute in.
        """
        self._check(text, t.shape[0])
        text = {i: _asked(of, options, i) for i, of in text.items()}
        branches = self.refined(text, t, dtype, attention, options)
        kept = [self._truncate(branch, text[i]) for i, branch in branches.items()]
        return _mix(kept, any(of.rows.present and of.emphasis is None for of in text.values()))

    def refined(
        self,
        text: Mapping[int, LLMStates],
        t: Tensor,
        dtype: torch.dtype,
        attention: AttentionFunction,
        options: TextOptions = TEXT_AS_CONFIGURED,
    ) -> dict[int, Branch]:
        """The branches after both refiners, the instruction not yet dropped."""
        branches = {
            i: self.linguistic[i](text[i], t, dtype, attention, options.of(i)) for i in sorted(text)
        }
        if (options.fusion or self.config.fusion) == "refiner":
            branches = self.collaborative(branches, attention)
        return branches

    def _truncate(self, branch: Branch, states: LLMStates) -> Branch:
        """Drop the instruction."""
        left = without_instruction(branch.tokens[:, branch.registers :], states)
        text = Branch(
            left.tokens,
            left.kept,
            branch.c,
            left.all_kept and (not branch.registers or states.rows.present),
            branch.weight,
            left.emphasis,
            taps=branch.taps and branch.taps.cut(states.rows.first),
        )
        kept = branch.registers and self.config.registers_kept
        return _with_registers(branch, text) if kept else text

    def _check(self, text: Mapping[int, LLMStates], batch: int) -> None:
        known = len(self.linguistic)
        check_text(text, known, batch)
        if not text:
            raise LiDiTError(f"text came for no branch; expected one or more of 0 to {known - 1}")


def _asked(states: LLMStates, options: TextOptions, branch: int) -> LLMStates:
    """The states, or none of a branch that the options leave out."""
    return states if options.of(branch).weight else states.emptied()


def _with_registers(branch: Branch, text: Branch) -> Branch:
    """The registers of a branch before what is left of its text."""
    r, emphasis = branch.registers, text.emphasis
    if emphasis is not None:
        emphasis = F.pad(emphasis, (r, 0), value=1.0)
    return replace(
        text,
        tokens=torch.cat([branch.tokens[:, :r], text.tokens], dim=1),
        seen=torch.cat([branch.seen[:, :r], text.seen], dim=1),
        emphasis=emphasis,
        registers=r,
        taps=text.taps and text.taps.after(r),
    )


def _mix(branches: Sequence[Branch], every_sample: bool) -> TextContext:
    """Concatenate the branches along tokens (paper) and pool them.

    Args:
        every_sample: whether every sample is known to have a token.
    """
    tokens = torch.cat([branch.tokens for branch in branches], dim=1)
    present = None if every_sample else _present(branches, tokens.dtype)
    taps = [(branch.tokens, branch.taps) for branch in branches]
    routed = tuple(taps) if any(of for _, of in taps) else ()
    return TextContext(tokens, _bias(branches), present, _pool(branches), routed)


def _bias(branches: Sequence[Branch]) -> Tensor | None:
    """The bias of the cross-attention's keys: what is seen, weights of branches and tokens."""
    bias = branch_bias(branches)
    if all(branch.emphasis is None for branch in branches):
        return bias
    logs = torch.cat([_log_emphasis(branch) for branch in branches], dim=1)[:, None, None]
    return logs if bias is None else bias + logs


def _log_emphasis(branch: Branch) -> Tensor:
    """The logarithm of each token's emphasis, (B, K); 0 where a branch has none."""
    if branch.emphasis is None:
        return branch.tokens.new_zeros(branch.seen.shape)
    return branch.emphasis.log().to(branch.tokens.dtype)


def _present(branches: Sequence[Branch], dtype: torch.dtype) -> Tensor:
    """Whether each sample has a token in any branch: (B, 1, 1), 1 or 0."""
    seen = torch.cat([branch.seen for branch in branches], dim=1)
    return seen.any(dim=1).to(dtype)[:, None, None]


def _pool(branches: Sequence[Branch]) -> Tensor:
    """The mean by weight over a sample's branches that hold a token, of each one's mean: (B, D)."""
    means = torch.stack([pooled(branch) for branch in branches])
    if weighted(branches):
        shares = branch_shares(branches)[..., None]
        return (means.float() * shares).sum(dim=0).to(means.dtype)
    holds = torch.stack([b.holds for b in branches])[..., None].to(means.dtype)
    return (means * holds).sum(dim=0) / holds.sum(dim=0).clamp(min=1)
