"""Captions that are longer than what an LLM reads are counted and told, and how long all are."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from .caption_states import CaptionReader

log = logging.getLogger(__name__)

LOOKED_AT = 4096  # captions, spread evenly, where there are more


def tell_cut(reader: CaptionReader, captions: Sequence[str]) -> None:
    """Warn where captions are cut at the LLM's budget; nothing is said where none is."""
    counts = reader.tokens(captions[:: max(1, -(-len(captions) // LOOKED_AT))])
    if not any(used < total for used, total in counts):
        return
    lengths = sorted(total for _, total in counts)
    cut, read = sum(used < total for used, total in counts), max(used for used, _ in counts)
    of_all = "" if len(counts) == len(captions) else f" that were looked at of {len(captions):,}"
    log.warning(
        "%s reads %d tokens of a caption, and %d of %d different captions%s are longer and are "
        "cut: half of them have %d tokens or fewer, 9 of 10 have %d or fewer, the longest %d; "
        "raise the LLM's token_budget to have them read whole",
        *(reader.spec.name, read, cut, len(counts), of_all),
        *(lengths[len(lengths) // 2], lengths[len(lengths) * 9 // 10], lengths[-1]),
    )
