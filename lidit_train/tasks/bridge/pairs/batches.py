"""Batches of captioned pictures, as a bridge in a U-Net reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch

from lidit_core.bridge.layout import AnyRows
from lidit_core.bridge.rows import OwnRows, TeacherRows, stack_rows

from ....batch import Batch
from ....data.fetching import Fetched, Fetcher
from ....data.loader import Loader
from ....data.prepare import Prepared
from ..batches import BridgeBatch
from .own_text import OwnCaptions


@dataclass(frozen=True, eq=False)
class WrittenTexts:
    """What a bridge is to write of texts, beside what its LLMs make of them.

    Args:
        makes: the rows of a text.
        own: what the encoder wrote that the bridge adds to; None where it adds to none.
    """

    makes: AnyRows
    own: OwnCaptions | None = None

    def __call__(self, texts: Sequence[str], device) -> tuple[TeacherRows, OwnRows | None]:
        """The rows of a batch of texts, and what stands in them already."""
        rows = stack_rows([self.makes(text) for text in texts])
        own = None if self.own is None else self.own.own(texts, rows).to(device)
        return rows.to(device), own


class PairsLoader(Loader):
    """Iterates over a process's batches of latents, noise, times and LLM states, with the rows that
    are to be written.

    Args:
        written: makes those of captions.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        ready: Prepared,
        written: WrittenTexts,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(fetcher, ready, device)
        self.written = written

    def complete(self, fetched: Fetched) -> BridgeBatch:
        read = fetched.states
        if read is None:
            read = self.fetcher.states(fetched.texts, fetched.plan.branches)
            fetched = replace(fetched, states=read)
        batch = super().complete(fetched)
        known = {f.name: getattr(batch, f.name) for f in fields(Batch)}
        spans = {i: c.spans.to(self.device) for i, c in read.items() if c.spans is not None}
        rows, own = self.written(batch.captions, self.device)
        return BridgeBatch(**known, spans=spans, rows=rows, own=own)
