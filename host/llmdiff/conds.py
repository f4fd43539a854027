"""How the host batches the tokens of an adapter: of any number, with prompts that have none.

Shapes: B rows, K tokens, W the tokens' width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from comfy.conds import CONDRegular
from torch import Tensor

from ...lidit_core.llmdiff.adapter import AdapterText
from ...lidit_core.model.attention import key_bias


@dataclass(frozen=True, eq=False)
class AddedText:
    """The text of a batch as the added paths take it.

    What Python decides with is kept beside the tensors, so that no step waits for the device. The
    host passes such an object on as it is.
    """

    text: AdapterText
    present: tuple[bool, ...]  # by row: whether it has a token
    replaces: tuple[bool, ...]  # by row: whether the checkpoint's own path reads φ(c)

    def __len__(self) -> int:
        return len(self.present)

    def absent(self) -> AddedText:
        """One row without text, to be batched with this one."""
        text = self.text
        gates = None if text.gates is None else torch.zeros_like(text.gates[:1])
        none = torch.zeros_like(text.seen[:1, :1])
        empty = AdapterText(torch.zeros_like(text.tokens[:1, :1]), none, gates)
        return AddedText(empty, (False,), (False,))

    def repeated(self, batch: int) -> AddedText:
        """Repeat the rows until there are as many as asked for, or take the first of them."""
        rows = [n % len(self) for n in range(batch)]
        text = self.text
        gates = None if text.gates is None else text.gates[rows]
        chosen = AdapterText(text.tokens[rows], text.seen[rows], gates, text.all_seen)
        present = tuple(self.present[n] for n in rows)
        return AddedText(chosen, present, tuple(self.replaces[n] for n in rows))

    def adding(self) -> AddedText:
        """The same, while another adapter gives the checkpoint's own path its text."""
        return replace(self, replaces=(False,) * len(self))

    def masked(self, dtype: torch.dtype) -> MaskedText:
        """Mask the text as the layers read it, which compute in this dtype."""
        text = self.text
        mask = key_bias(text.seen, dtype, text.all_seen)
        return MaskedText(text.tokens.to(dtype), text.seen, text.gates, text.all_seen, mask)


@dataclass(frozen=True, eq=False)
class MaskedText(AdapterText):
    """Text whose mask is made once a step, not once a layer."""

    mask: Tensor | None = None  # (B, 1, 1, K), what `bias` gives; None = all is seen

    def bias(self, dtype: torch.dtype) -> Tensor | None:
        return self.mask


def stacked(texts: Sequence[AddedText]) -> AddedText:
    """One batch of several, padded to the longest."""
    lengths = [text.text.tokens.shape[1] for text in texts]
    padded = [_padded(text.text, max(lengths)) for text in texts]
    tokens, seen = (torch.cat([getattr(t, name) for t in padded]) for name in ("tokens", "seen"))
    every = [t.gates for t in padded if t.gates is not None]  # of all, or of none
    gates = torch.cat(every) if every else None
    all_seen = len(set(lengths)) == 1 and all(text.text.all_seen for text in texts)
    present = tuple(row for text in texts for row in text.present)
    replaces = tuple(row for text in texts for row in text.replaces)
    return AddedText(AdapterText(tokens, seen, gates, all_seen), present, replaces)


def _padded(text: AdapterText, length: int) -> AdapterText:
    extra = length - text.tokens.shape[1]
    tokens, seen = F.pad(text.tokens, (0, 0, 0, extra)), F.pad(text.seen, (0, extra))
    return AdapterText(tokens, seen, text.gates)


class CONDAdded(CONDRegular):
    """The host's handle on an `AddedText`."""

    def process_cond(self, batch_size: int, **kwargs) -> CONDAdded:
        return self._copy_with(self.cond.repeated(batch_size))

    def can_concat(self, other: CONDAdded) -> bool:
        return isinstance(other, CONDAdded)

    def concat(self, others: Sequence[CONDAdded]) -> AddedText:
        return stacked([self.cond, *(other.cond for other in others)])

    def size(self) -> list[int]:
        """The size as the host's memory estimate reads it: rows, 1, tokens."""
        return [len(self.cond), 1, self.cond.text.tokens.shape[1]]
