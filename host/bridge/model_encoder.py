"""Whether a MODEL of the host was made with the text encoder that a bridge writes for.

Many encoders write rows of one width: T5 and LLaMA 3 both 4096 numbers, and FLUX and HunyuanVideo
read as wide a pooled vector too. The host names each model's own encoder; its tokens tell most.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from ...lidit_core.bridge.file import LoadedBridge
from ...lidit_core.bridge.layout import RowMaker
from ...lidit_core.bridge.rows import PADDING_ROW
from ..node_notes import note
from .files import Loaded, writes_of

PROBE = "two red cars, left of 3 small blue birds!"


def tell_encoder(loaded: Loaded, model: Any) -> None:
    """Tell on the node of a MODEL whose own text encoder is another than a bridge writes for.

    Tokens are compared where the host makes the encoder's tokenizer without its file, and else the
    names of classes. Of a model whose encoder the host does not name nothing is told.
    """
    config = model.model.model_config
    target = getattr(config, "clip_target", None)
    try:
        own = target() if target else None
    except Exception:  # of some the host names it by the tensors of a whole checkpoint alone
        return
    if own is None or not isinstance(loaded, LoadedBridge):
        return
    name, written = getattr(own.clip, "__name__", "another one"), writes_of(loaded).name
    tokens = _tokens(own.tokenizer)
    if tokens is None:
        alike = name == written
    else:
        alike = all(within(_ids(maker), tokens) for maker in loaded.rows.makers)
    if not alike:
        note(
            f"this bridge was trained for {written}, and the model here, {type(config).__name__}, "
            f"comes with another text encoder of the same width ({name}), so that it may draw "
            "something else than the prompt says; connect the model that the bridge was trained "
            "for, or load a bridge for this one"
        )


@functools.lru_cache(maxsize=8)
def _tokens(tokenizer: Any) -> tuple[tuple[int, ...], ...] | None:
    """The ids that each part of a tokenizer of the host gives for the probe.

    None where it cannot be made without what an encoder's file holds, such as Gemma's.
    """
    try:
        made = tokenizer(embedding_directory=None, tokenizer_data={})
        found = made.tokenize_with_weights(PROBE)
        return tuple(
            tuple(piece[0] for chunk in chunks for piece in chunk) for chunks in found.values()
        )
    except Exception:  # the host's classes each fail in their own way
        return None


def _ids(maker: RowMaker) -> list[int]:
    """The ids of a teacher's rows for the probe, without padding."""
    rows = maker(PROBE)
    return (rows.ids - maker.layout.first_id)[rows.kinds != PADDING_ROW].tolist()


def within(ids: Sequence[int], tokens: Sequence[tuple[int | None, ...]]) -> bool:
    """Whether the ids follow on one another in one part's tokens."""
    wanted = tuple(ids)
    return any(
        part[first : first + len(wanted)] == wanted
        for part in tokens
        for first in range(len(part) - len(wanted) + 1)
    )
