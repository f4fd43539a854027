"""Batches of captioned pictures, as a bridge in a U-Net reads them."""

from __future__ import annotations

from dataclasses import fields, replace

import torch

from lidit_core.bridge.layout import AnyRows
from lidit_core.bridge.rows import stack_rows

from ....batch import Batch
from ....data.fetching import Fetched, Fetcher
from ....data.loader import Loader
from ....data.prepare import Prepared
from ..batches import BridgeBatch


class PairsLoader(Loader):
    """Iterates over a process's batches of latents, noise, times and LLM states, with the rows that
    are to be written.

    Args:
        rows: makes those of a caption.
    """

    def __init__(
        self, fetcher: Fetcher, ready: Prepared, rows: AnyRows, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(fetcher, ready, device)
        self.rows = rows

    def complete(self, fetched: Fetched) -> BridgeBatch:
        read = fetched.states
        if read is None:
            read = self.fetcher.states(fetched.texts, fetched.plan.branches)
            fetched = replace(fetched, states=read)
        batch = super().complete(fetched)
        own = {f.name: getattr(batch, f.name) for f in fields(Batch)}
        spans = {i: c.spans.to(self.device) for i, c in read.items() if c.spans is not None}
        rows = stack_rows([self.rows(text) for text in batch.captions]).to(self.device)
        return BridgeBatch(**own, spans=spans, rows=rows)
