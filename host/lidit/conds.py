"""How the host batches our text: prompts of any length and of any of the LLMs together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import is_
from typing import Any

import torch
from comfy.conds import CONDRegular

from ...lidit_core.model.text_side import TextOptions
from ...lidit_core.text.rows import NO_TOKENS, Rows
from ...lidit_core.text.states import LLMStates, stack_states


@dataclass(frozen=True, eq=False)
class ModelText:
    """The text of a batch as the model takes it; it stays on its device and in its dtype.

    A host casts every tensor to the model's dtype, which may be one that an LLM's states do not
    fit into; it passes an object like this one on as it is. The host batches the same texts anew
    at every step of a sampling, so that each keeps what it was batched to last.
    """

    states: Mapping[int, LLMStates]  # by branch of the model, B rows each
    options: TextOptions
    unpadded: bool = False  # whether a node reads all tokens, those of a padded row among them
    _batched: dict[str, tuple[Any, "ModelText"]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __len__(self) -> int:
        return len(next(iter(self.states.values())))

    def to(self, device: torch.device) -> "ModelText":
        return self.changed({i: states.to(device) for i, states in self.states.items()})

    def repeated(self, batch: int) -> "ModelText":
        """Repeat the rows until there are as many as asked for, or take the first of them."""
        if batch == len(self):  # nothing to copy
            return self
        known, text = self._batched.get("repeated", (None, self))
        if known != batch:
            rows = [n % len(self) for n in range(batch)]
            text = self.changed({i: states[rows] for i, states in self.states.items()})
            self._batched["repeated"] = batch, text
        return text

    def joined(self, others: Sequence["ModelText"]) -> "ModelText":
        """One batch of this and others; a branch that one of them lacks has no token there."""
        known, text = self._batched.get("joined", ((), self))
        if len(known) != len(others) or not all(map(is_, known, others)):
            text = joined([self, *others])
            self._batched["joined"] = tuple(others), text
        return text

    def changed(self, states: Mapping[int, LLMStates]) -> "ModelText":
        return replace(self, states=states)

    def goes_with(self, other: "ModelText") -> bool:
        """Whether both use every branch in the same way; one that is not there counts as plain."""
        branches = self.states.keys() | other.states.keys()
        alike = all(self.options.of(i) == other.options.of(i) for i in branches)
        if (self.unpadded or other.unpadded) and _lengths(self) != _lengths(other):
            return False
        return alike and self.options.fusion == other.options.fusion


def _lengths(text: ModelText) -> dict[int, int]:
    return {i: states.roles.shape[1] for i, states in text.states.items()}


def joined(texts: Sequence[ModelText]) -> ModelText:
    """One batch of several; a branch that one of them lacks has no token there."""
    branches = sorted({i for text in texts for i in text.states})
    options = {i: text.options.of(i) for text in texts for i in text.states}
    return ModelText(
        {i: _branch(texts, i) for i in branches},
        TextOptions(options, texts[0].options.fusion),
    )


def _branch(texts: Sequence[ModelText], i: int) -> LLMStates:
    present = next(text.states[i] for text in texts if i in text.states)
    rows = [text.states[i] if i in text.states else _nothing(present, len(text)) for text in texts]
    return stack_states(rows)


def _nothing(like: LLMStates, rows: int) -> LLMStates:
    hidden, roles = like.hidden.new_zeros(rows, 1, like.width), like.roles.new_zeros(rows, 1)
    return LLMStates(hidden, roles, Rows.of((NO_TOKENS,) * rows, 1))


class CONDText(CONDRegular):
    """The host's handle on a `ModelText`."""

    def process_cond(self, batch_size: int, **kwargs) -> "CONDText":
        return self._copy_with(self.cond.repeated(batch_size))

    def can_concat(self, other: "CONDText") -> bool:
        """Prompts used in different ways run one after the other."""
        return isinstance(other, CONDText) and self.cond.goes_with(other.cond)

    def concat(self, others: Sequence["CONDText"]) -> ModelText:
        return self.cond.joined([other.cond for other in others])

    def size(self) -> list[int]:
        """The size as the host's memory estimate reads it: rows, 1, tokens."""
        return [len(self.cond), 1, tokens(self.cond.states)]


def tokens(states: Mapping[int, LLMStates]) -> int:
    return sum(s.roles.shape[1] for s in states.values())
