"""What an LLM hands to the diffusion model: hidden states and the role of every token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import InitVar, dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import LiDiTError

PADDING = 0  # no token
INSTRUCTION = 1  # read by the refiners, dropped after them (paper: truncation comes last)
PROMPT = 2  # read by the refiners and kept for cross-attention: the prompt and the template's tail


@dataclass(frozen=True)
class Row:
    """Where the tokens of one prompt lie, as numbers of Python."""

    seen: int  # tokens that are no padding
    kept: int  # tokens of the prompt
    first: int  # the first of those; 0 where there is none


NO_TOKENS = Row(0, 0, 0)


def rows_of(roles: Tensor) -> tuple[Row, ...]:
    """The rows of roles (B, L); waits for the device that they are on."""
    kept = roles == PROMPT
    if not roles.shape[1]:
        return (NO_TOKENS,) * len(roles)
    numbers = torch.stack(
        [(roles != PADDING).sum(1), kept.sum(1), kept.to(torch.int32).argmax(1)], dim=1
    )
    return tuple(Row(*row) for row in numbers.tolist())


@dataclass(frozen=True)
class LLMStates:
    """States of a batch of prompts from one LLM, padded on the right.

    Roles are int32 rather than bool because hosts cast every other mask to float.
    """

    hidden: Tensor  # (B, L, C) float32 or bfloat16, never float16
    roles: Tensor  # (B, L) int32: PADDING, INSTRUCTION or PROMPT
    known: InitVar[tuple[Row, ...] | None] = None  # the rows; whoever replaces roles leaves it out

    def __post_init__(self, known: tuple[Row, ...] | None) -> None:
        if self.hidden.ndim != 3 or self.roles.shape != self.hidden.shape[:2]:
            raise LiDiTError(
                f"LLM states have shape {tuple(self.hidden.shape)} and roles "
                f"{tuple(self.roles.shape)}; expected (B, L, C) and (B, L)"
            )

        if known is None and self.roles.device.type == "cpu":
            known = rows_of(self.roles)
        object.__setattr__(self, "known_rows", known)

    def __len__(self) -> int:
        return self.hidden.shape[0]

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """What a model decides by, so that no step of it waits for a device.

        It is known from the start for states that were made on the CPU, and goes along with all
        that this class does to them; of others it is read from the device once.
        """
        return rows_of(self.roles) if self.known_rows is None else self.known_rows

    @property
    def full(self) -> bool:
        """Whether no row has padding."""
        return all(row.seen == self.roles.shape[1] for row in self.rows)

    @property
    def first(self) -> int:
        """The first token that any row keeps; 0 where none does."""
        firsts = [row.first for row in self.rows if row.kept]
        return min(firsts) if firsts else 0

    @property
    def width(self) -> int:
        return self.hidden.shape[2]

    def __getitem__(self, rows: slice | Tensor | list[int]) -> "LLMStates":
        """Choose rows of the batch (a slice, a list or an index tensor), keeping the padding."""
        return LLMStates(self.hidden[rows], self.roles[rows], self._chosen(rows))

    def _chosen(self, rows: slice | Tensor | list[int]) -> tuple[Row, ...] | None:
        if isinstance(rows, slice):
            return self.known_rows and self.known_rows[rows]
        if isinstance(rows, Tensor) or self.known_rows is None:
            return None
        return tuple(self.known_rows[row] for row in rows)

    def to(self, device=None, dtype: torch.dtype | None = None) -> "LLMStates":
        hidden = self.hidden.to(device=device, dtype=dtype)
        return LLMStates(hidden, self.roles.to(device), self.known_rows)

    def with_hidden(self, hidden: Tensor) -> "LLMStates":
        """Other states (B, L, any width) of the same tokens."""
        return LLMStates(hidden, self.roles, self.known_rows)

    def padded(self, length: int) -> "LLMStates":
        """With padding up to this length, which is at least the present one."""
        extra = length - self.roles.shape[1]
        if extra < 0:
            raise LiDiTError(
                f"states of {self.roles.shape[1]} tokens cannot be padded to {length}; "
                "expected a length that is not shorter"
            )
        hidden = F.pad(self.hidden, (0, 0, 0, extra))
        return LLMStates(hidden, F.pad(self.roles, (0, extra)), self.known_rows)

    def trimmed(self) -> "LLMStates":
        """Without the padding that every row has."""
        tokens = (self.roles != PADDING).any(dim=0).nonzero()
        length = int(tokens[-1]) + 1 if len(tokens) else 0
        return LLMStates(self.hidden[:, :length], self.roles[:, :length], self.known_rows)

    def emptied(self) -> "LLMStates":
        """The same shape with no token in it: what a zeroed-out conditioning means."""
        hidden, roles = torch.zeros_like(self.hidden), torch.zeros_like(self.roles)
        return LLMStates(hidden, roles, (NO_TOKENS,) * len(self))


@dataclass(frozen=True)
class KeptTokens:
    """What is left of a batch's tokens without the instruction."""

    tokens: Tensor  # (B, K, D)
    kept: Tensor  # (B, K) bool, False = masked
    full: bool  # nothing is masked


def without_instruction(tokens: Tensor, states: LLMStates) -> KeptTokens:
    """Cut refined tokens (B, L, D) off before the first that any sample keeps, and mask others.

    Args:
        states: what the tokens were refined from.
    """
    first, length = states.first, states.roles.shape[1]
    full = all(row.kept == length - first for row in states.rows)
    return KeptTokens(tokens[:, first:], states.roles[:, first:] == PROMPT, full)


def stack_states(batches: Sequence[LLMStates]) -> LLMStates:
    """Join batches of one LLM along the batch, padding to the longest."""
    if len({b.width for b in batches}) != 1:
        widths = sorted({b.width for b in batches})
        raise LiDiTError(f"cannot batch LLM states of widths {widths}; expected one LLM's states")
    length = max(b.roles.shape[1] for b in batches)
    padded = [b.padded(length) for b in batches]
    known = [b.known_rows for b in padded]
    rows = None if None in known else tuple(row for of_one in known if of_one for row in of_one)
    hidden, roles = (torch.cat([getattr(b, name) for b in padded]) for name in ("hidden", "roles"))
    return LLMStates(hidden, roles, rows)
