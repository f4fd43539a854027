"""What an LLM hands to the diffusion model: hidden states and the role of every token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import LiDiTError, shown
from .rows import NO_TOKENS, Rows

PADDING = 0  # no token
INSTRUCTION = 1  # read by the refiners, dropped after them (paper: truncation comes last)
PROMPT = 2  # read by the refiners and kept for cross-attention: the prompt and the template's tail


def _are_numbers(tensor: Tensor) -> bool:
    """Whether it holds real numbers, of types that PyTorch computes with: float8 is none."""
    computed = tensor.is_floating_point() and tensor.element_size() > 1
    return computed and tensor.layout == torch.strided and not tensor.is_nested


@dataclass(frozen=True, eq=False)
class LLMStates:
    """States of a batch of prompts from one LLM, padded on the right.

    Roles are int32 rather than bool because hosts cast every other mask to float.

    Args:
        known: the rows of these roles, which go along with all that this class does to states;
            None = they are read from the roles once, which waits for the device of those.
    """

    hidden: Tensor  # (B, L, C) float32 or bfloat16, never float16
    roles: Tensor  # (B, L) int32: PADDING, INSTRUCTION or PROMPT
    known: InitVar[Rows | None] = None
    emphasis: Tensor | None = None  # (B, L) float32, weight of each token; None = 1 for all
    rows: Rows = field(init=False, repr=False)

    def __post_init__(self, known: Rows | None) -> None:
        for name, tensor in (("hidden", self.hidden), ("roles", self.roles)):
            if not isinstance(tensor, Tensor):
                raise LiDiTError(
                    f"{name} of LLM states is {shown(tensor)}; expected tensors, hidden (B, L, C) "
                    "of float32 or bfloat16 and roles (B, L) of int32"
                )
        if not _are_numbers(self.hidden):
            raise LiDiTError(
                f"LLM states are of type {self.hidden.dtype} ({self.hidden.layout}); expected "
                "float32 or bfloat16"
            )
        if self.hidden.ndim != 3 or self.roles.shape != self.hidden.shape[:2]:
            raise LiDiTError(
                f"LLM states have shape {tuple(self.hidden.shape)} and roles "
                f"{tuple(self.roles.shape)}; expected (B, L, C) and (B, L)"
            )
        if self.emphasis is not None:
            self._check_emphasis(self.emphasis, whole=known is None)
        if known is None:
            known = Rows.read(self.roles != PADDING, self.roles == PROMPT)
        object.__setattr__(self, "rows", known)

    def _check_emphasis(self, weights: Any, whole: bool) -> None:
        """Refuse an emphasis that is not one weight for each token, (B, L) of a float type.

        Args:
            whole: whether the numbers too are looked at, which waits for their device.
        Raises:
            LiDiTError: type, shape or, where they are looked at, a number is not as expected.
        """
        right = isinstance(weights, Tensor) and _are_numbers(weights)
        if not right or weights.shape != self.roles.shape:
            raise LiDiTError(
                f"emphasis of LLM states is {shown(weights)}; expected a weight of float32 for "
                f"each token, {tuple(self.roles.shape)}"
            )
        if whole and not bool(weights.isfinite().all()):
            raise LiDiTError(
                "emphasis of LLM states holds weights that are not finite; expected numbers, 1 for "
                "a token that counts as the others"
            )

    def __repr__(self) -> str:
        rows, length, width = self.hidden.shape
        return f"LLMStates of {rows} prompts, {length} tokens, width {width}"

    def __len__(self) -> int:
        return self.hidden.shape[0]

    @property
    def width(self) -> int:
        return self.hidden.shape[2]

    def __getitem__(self, rows: slice | Tensor | list[int]) -> "LLMStates":
        """Choose rows of the batch (a slice, a list or an index tensor), keeping the padding."""
        emphasis = None if self.emphasis is None else self.emphasis[rows]
        return LLMStates(self.hidden[rows], self.roles[rows], self._chosen(rows), emphasis)

    def _chosen(self, rows: slice | Tensor | list[int]) -> Rows | None:
        each = self.rows.each
        if isinstance(rows, slice):
            return Rows.of(each[rows], self.roles.shape[1])
        if isinstance(rows, list):
            return Rows.of([each[row] for row in rows], self.roles.shape[1])
        return None

    def to(self, device=None, dtype: torch.dtype | None = None) -> "LLMStates":
        hidden = self.hidden.to(device=device, dtype=dtype)
        emphasis = None if self.emphasis is None else self.emphasis.to(device)
        return LLMStates(hidden, self.roles.to(device), self.rows, emphasis)

    def with_hidden(self, hidden: Tensor) -> "LLMStates":
        """Other states (B, L, any width) of the same tokens."""
        return LLMStates(hidden, self.roles, self.rows, self.emphasis)

    def padded(self, length: int) -> "LLMStates":
        """The states with padding up to this length, which is at least the present one."""
        extra = length - self.roles.shape[1]
        if extra < 0:
            raise LiDiTError(
                f"states of {self.roles.shape[1]} tokens cannot be padded to {length}; "
                "expected a length that is not shorter"
            )
        if not extra:
            return self
        hidden, roles = F.pad(self.hidden, (0, 0, 0, extra)), F.pad(self.roles, (0, extra))
        emphasis = None if self.emphasis is None else F.pad(self.emphasis, (0, extra), value=1.0)
        return LLMStates(hidden, roles, Rows.of(self.rows.each, length), emphasis)

    def trimmed(self) -> "LLMStates":
        """The states, less the padding that every row has."""
        tokens = (self.roles != PADDING).any(dim=0).nonzero()
        length = int(tokens[-1]) + 1 if len(tokens) else 0
        rows = Rows.of(self.rows.each, length)
        emphasis = None if self.emphasis is None else self.emphasis[:, :length]
        return LLMStates(self.hidden[:, :length], self.roles[:, :length], rows, emphasis)

    def emptied(self) -> "LLMStates":
        """The same shape with no token in it: what a zeroed-out conditioning means."""
        hidden, roles = torch.zeros_like(self.hidden), torch.zeros_like(self.roles)
        return LLMStates(hidden, roles, Rows.of((NO_TOKENS,) * len(self), roles.shape[1]))


def check_text(text: object, branches: int, rows: int, what: str = "text") -> None:
    """Raise unless a text is states by branch, a row for each latent.

    Args:
        branches: how many the model has.
        what: how the sentence calls the text.
    """
    if not isinstance(text, Mapping) or not set(text) <= set(range(branches)):
        came = f"branches {sorted(text, key=str)}" if isinstance(text, Mapping) else shown(text)
        raise LiDiTError(
            f"{what} came for {came}; expected a dict of LLMStates by branch, of one or more of 0 "
            f"to {branches - 1}"
        )
    for branch, states in text.items():
        if not isinstance(states, LLMStates):
            raise LiDiTError(
                f"{what} of branch {branch} is {shown(states)}; expected LLMStates, as a "
                "PromptEncoder gives them"
            )
        if len(states) != rows:
            raise LiDiTError(
                f"branch {branch} has {what} for {len(states)} samples; expected {rows}, one for "
                "each latent: repeat a row with states[[0, 0]]"
            )


@dataclass(frozen=True, eq=False)
class KeptTokens:
    """What is left of a batch's tokens without the instruction."""

    tokens: Tensor  # (B, K, D)
    kept: Tensor  # (B, K) bool, False = masked
    all_kept: bool  # nothing is masked
    emphasis: Tensor | None = None  # (B, K) weights above 0; None = 1 for all


def without_instruction(tokens: Tensor, states: LLMStates) -> KeptTokens:
    """Cut refined tokens (B, L, D) off before the first that any sample keeps, and mask others.

    Args:
        states: what the tokens were refined from.
    """
    first = states.rows.first
    tokens, kept = tokens[:, first:], states.roles[:, first:] == PROMPT
    if states.emphasis is None:
        return KeptTokens(tokens, kept, states.rows.all_kept)
    emphasis = states.emphasis[:, first:]
    return KeptTokens(tokens, kept & (emphasis > 0), False, emphasis.masked_fill(emphasis <= 0, 1))


def stack_states(batches: Sequence[LLMStates]) -> LLMStates:
    """Join batches of one LLM along the batch, padding to the longest."""
    if len({b.width for b in batches}) != 1:
        widths = sorted({b.width for b in batches})
        raise LiDiTError(f"cannot batch LLM states of widths {widths}; expected one LLM's states")
    length = max(b.roles.shape[1] for b in batches)
    padded = [b.padded(length) for b in batches]
    rows = Rows.of((row for b in batches for row in b.rows.each), length)
    hidden, roles = torch.cat([b.hidden for b in padded]), torch.cat([b.roles for b in padded])
    return LLMStates(hidden, roles, rows, _stacked_emphasis(padded))


def _stacked_emphasis(batches: Sequence[LLMStates]) -> Tensor | None:
    if all(b.emphasis is None for b in batches):
        return None
    ones = (torch.ones_like(b.roles, dtype=torch.float32) for b in batches)
    pairs = zip(batches, ones, strict=True)
    return torch.cat([one if b.emphasis is None else b.emphasis for b, one in pairs])
