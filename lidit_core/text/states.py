"""What an LLM hands to the diffusion model: hidden states and the role of every token."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import LiDiTError, check, shown

PADDING = 0  # no token
INSTRUCTION = 1  # read by the refiners, dropped after them (paper: truncation comes last)
PROMPT = 2  # read by the refiners and kept for cross-attention: the prompt and the template's tail


@dataclass(frozen=True)
class LLMStates:
    """States of a batch of prompts from one LLM, padded on the right.

    Roles are int32 rather than bool because hosts cast every other mask to float.
    """

    hidden: Tensor  # (B, L, C) float32 or bfloat16, never float16
    roles: Tensor  # (B, L) int32: PADDING, INSTRUCTION or PROMPT

    def __post_init__(self) -> None:
        for name, tensor in (("hidden", self.hidden), ("roles", self.roles)):
            check(
                isinstance(tensor, Tensor),
                f"{name} of LLM states is {shown(tensor)}; expected tensors, hidden (B, L, C) of "
                "float32 or bfloat16 and roles (B, L) of int32",
            )
        if self.hidden.ndim != 3 or self.roles.shape != self.hidden.shape[:2]:
            raise LiDiTError(
                f"LLM states have shape {tuple(self.hidden.shape)} and roles "
                f"{tuple(self.roles.shape)}; expected (B, L, C) and (B, L)"
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
        return LLMStates(self.hidden[rows], self.roles[rows])

    def to(self, device=None, dtype: torch.dtype | None = None) -> "LLMStates":
        return replace(
            self, hidden=self.hidden.to(device=device, dtype=dtype), roles=self.roles.to(device)
        )

    def padded(self, length: int) -> "LLMStates":
        """With padding up to this length, which is at least the present one."""
        extra = length - self.roles.shape[1]
        if extra < 0:
            raise LiDiTError(
                f"states of {self.roles.shape[1]} tokens cannot be padded to {length}; "
                "expected a length that is not shorter"
            )
        return LLMStates(F.pad(self.hidden, (0, 0, 0, extra)), F.pad(self.roles, (0, extra)))

    def trimmed(self) -> "LLMStates":
        """Without the padding that every row has."""
        tokens = (self.roles != PADDING).any(dim=0).nonzero()
        length = int(tokens[-1]) + 1 if len(tokens) else 0
        return LLMStates(self.hidden[:, :length], self.roles[:, :length])

    def emptied(self) -> "LLMStates":
        """The same shape with no token in it: what a zeroed-out conditioning means."""
        return LLMStates(torch.zeros_like(self.hidden), torch.zeros_like(self.roles))


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
        check(
            isinstance(states, LLMStates),
            f"{what} of branch {branch} is {shown(states)}; expected LLMStates, as a PromptEncoder "
            "gives them",
        )
        check(
            len(states) == rows,
            f"branch {branch} has {what} for {len(states)} samples; expected {rows}, one for each "
            "latent: repeat a row with states[[0, 0]]",
        )


def without_instruction(tokens: Tensor, roles: Tensor) -> tuple[Tensor, Tensor]:
    """Refined tokens (B, L, D) from the first that any sample keeps, and which are kept (B, K).

    Leading tokens that no sample keeps are cut off; all others that are not kept are masked.
    """
    kept = roles == PROMPT
    first = int(kept.any(dim=0).int().argmax()) if kept.shape[1] else 0
    return tokens[:, first:], kept[:, first:]


def stack_states(batches: Sequence[LLMStates]) -> LLMStates:
    """Join batches of one LLM along the batch, padding to the longest."""
    if len({b.width for b in batches}) != 1:
        widths = sorted({b.width for b in batches})
        raise LiDiTError(f"cannot batch LLM states of widths {widths}; expected one LLM's states")
    length = max(b.roles.shape[1] for b in batches)
    padded = [b.padded(length) for b in batches]
    return LLMStates(torch.cat([b.hidden for b in padded]), torch.cat([b.roles for b in padded]))
