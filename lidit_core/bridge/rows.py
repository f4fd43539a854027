"""What a batch brings to a bridge: the rows that are to be written, and the LLM's tokens.

Shapes: B prompts, R rows of the teacher, L tokens of one LLM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..text.cache import PromptStates
from ..text.states import PADDING, PROMPT, LLMStates

TEXT, SPECIAL, PADDING_ROW = 0, 1, 2  # kinds of rows
KINDS = 3
ABSENT = -1  # kind of what fills a batch's shorter sequences: no row at all


@dataclass(frozen=True, eq=False)
class TeacherRows:
    """The rows of prompts, (B, R) each, or (R,) of one."""

    ids: Tensor  # int64
    spans: Tensor  # (B, R, 2) float32: the characters of the prompt that each stands for
    kinds: Tensor  # int64: TEXT, SPECIAL, PADDING_ROW or ABSENT
    constants: Tensor  # int64: which of `TokenLayout.constants`; -1 for text
    places: Tensor  # int64: in the row's chunk
    chunks: Tensor  # int64
    parts: Tensor  # int64: which of the encoders whose rows follow on one another, from 0

    @property
    def seen(self) -> Tensor:
        """Whether each place holds a row, and not a batch's filling: (B, R) bool."""
        return self.kinds != ABSENT

    def to(self, device) -> TeacherRows:
        return TeacherRows(*(getattr(self, f.name).to(device) for f in fields(self)))

    def __getitem__(self, rows: slice) -> TeacherRows:
        return TeacherRows(*(getattr(self, f.name)[rows] for f in fields(self)))


FILL = {"kinds": ABSENT, "constants": -1}  # 0 for the others


def stack_rows(prompts: Sequence[TeacherRows]) -> TeacherRows:
    """Rows of several prompts as one batch, the shorter ones filled up."""
    return TeacherRows(
        *(
            torch.nn.utils.rnn.pad_sequence(
                [getattr(p, f.name) for p in prompts], True, FILL.get(f.name, 0)
            )
            for f in fields(TeacherRows)
        )
    )


@dataclass(frozen=True, eq=False)
class StudentTokens:
    """One LLM's states of a batch of prompts, with the characters of its tokens."""

    states: LLMStates
    spans: Tensor  # (B, L, 2) float32; of the template's tokens before or after the prompt empty

    @property
    def kept(self) -> Tensor:
        """Whether each token is neither instruction nor padding, (B, L) bool."""
        return self.states.roles == PROMPT

    def to(self, device) -> StudentTokens:
        return StudentTokens(self.states.to(device, torch.float32), self.spans.to(device))

    def __getitem__(self, rows: slice) -> StudentTokens:
        return StudentTokens(self.states[rows], self.spans[rows])


@dataclass(frozen=True, eq=False)
class OwnRows:
    """What the checkpoint's own encoder made of prompts, to which a bridge may add."""

    tokens: StudentTokens  # (B, R, C), read by the collaborative refiner as one more branch
    pooled: Tensor | None  # (B, P)

    @staticmethod
    def of(sequence: Tensor, pooled: Tensor | None, rows: TeacherRows, masked: bool) -> OwnRows:
        """The rows (B, R, C) as the encoder wrote them.

        Args:
            masked: padding is not read.
        """
        there = rows.seen & (rows.kinds != PADDING_ROW) if masked else rows.seen
        roles = torch.where(there, PROMPT, PADDING).to(torch.int32)
        return OwnRows(StudentTokens(LLMStates(sequence, roles), rows.spans), pooled)

    def to(self, device) -> OwnRows:
        pooled = None if self.pooled is None else self.pooled.to(device)
        return OwnRows(self.tokens.to(device), pooled)

    def __getitem__(self, rows: slice) -> OwnRows:
        return OwnRows(self.tokens[rows], None if self.pooled is None else self.pooled[rows])


def student_tokens(
    states: LLMStates, rows: Sequence[PromptStates], lengths: Sequence[int]
) -> StudentTokens:
    """A batch of prompts that an LLM has read.

    Args:
        states: the padded states of the rows.
        lengths: characters of each prompt.
    """
    return StudentTokens(states, spans_of(rows, lengths))


def spans_of(rows: Sequence[PromptStates], lengths: Sequence[int]) -> Tensor:
    """The characters of each token of prompts, (B, L, 2), as `student_tokens` has them."""
    spans = [_spans(row, length) for row, length in zip(rows, lengths, strict=True)]
    return torch.nn.utils.rnn.pad_sequence(spans, True)


def _spans(row: PromptStates, length: int) -> Tensor:
    assert row.offsets is not None  # as whoever asks for a bridge's states wants them
    spans = torch.zeros(len(row.roles), 2)
    spans[row.span[0] :] = float(length)
    spans[row.span[0] : row.span[1]] = row.offsets[: row.span[1] - row.span[0]].float()
    return spans
