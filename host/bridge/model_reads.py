"""What a MODEL of the host reads of text, to be compared with what a bridge writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ...lidit_core.bridge.file import LoadedBridge
from ...lidit_core.errors import check
from ..node_notes import note
from .files import Loaded, Writes, writes_of
from .model_encoder import tell_encoder
from .padding import drops_masks, learnt_no_padding

# The first layers that the host's transformers have on the text and on the pooled vector.
ON_ROWS = (
    *("context_embedder", "txt_in", "txt_in.input_embedder", "y_embedder.y_proj.fc1"),
    *("cap_embedder.1", "cond_seq_linear", "text_embedding.0", "caption_projection.linear_1"),
)
ON_POOLED = ("vector_in.in_layer", "y_embedder.mlp.0")
ADVICE = "connect the model that the bridge was trained for, or load a bridge for this one"
SIZES = {"SDXL": 6 * 256, "SDXLRefiner": 5 * 256}  # numbers beside the pooled vector, by class


@dataclass(frozen=True)
class Reads:
    """How wide the rows and the pooled vector are that a model reads; 0 = it is not known."""

    name: str
    rows: int
    pooled: int


def reads_of(model: Any) -> Reads:
    """What a MODEL reads, by its configuration or its layers."""
    inner = model.model
    name, net = type(inner.model_config).__name__, inner.diffusion_model
    config = inner.model_config.unet_config or {}
    if rows := config.get("context_dim"):
        rows = rows[-1] if isinstance(rows, (list, tuple)) else rows
        kind = next((k.__name__ for k in type(inner).__mro__ if k.__name__ in SIZES), "")
        numbers = config.get("adm_in_channels") or 0
        return Reads(name, int(rows), numbers - SIZES[kind] if kind else 0)
    return Reads(name, _entered(net, ON_ROWS), _entered(net, ON_POOLED))


def _entered(net: torch.nn.Module, names: tuple[str, ...]) -> int:
    """Numbers that the first of these layers takes."""
    return next(_widths(net, names), 0)


def _widths(net: torch.nn.Module, names: tuple[str, ...]) -> Iterator[int]:
    for name in names:
        try:
            layer = net.get_submodule(name)
        except AttributeError:
            continue
        if isinstance(width := getattr(layer, "in_features", None), int):
            yield width


def check_model(loaded: Loaded, model: Any) -> None:
    """Refuse a MODEL that reads other rows, or another pooled vector, than a bridge writes.

    Of one that reads as much from another text encoder a note tells, and of one that reads padding
    of which the bridge has learnt nothing.

    Raises:
        LiDiTError: it does.
    """
    target, reads = writes_of(loaded), reads_of(model)
    if not reads.rows:
        note(f"what {reads.name} reads of text is not known here, and not compared with the bridge")
        return
    _check_rows(target, reads)
    check(reads.pooled in (0, target.pooled), _other_pooled(target, reads))
    _compare(loaded, model, target, reads)


def check_drawing(loaded: Loaded, model: Any) -> None:
    """The same of a MODEL that draws with what a bridge wrote.

    Of one of which nothing is known nothing is told, and where the bridge writes no pooled vector
    another node may have added one, or the model do without: a note tells.

    Raises:
        LiDiTError: it reads other rows, or another pooled vector.
    """
    target, reads = writes_of(loaded), reads_of(model)
    if not reads.rows:
        return
    _check_rows(target, reads)
    if reads.pooled and not target.pooled:
        note(_other_pooled(target, reads))
    else:
        check(reads.pooled in (0, target.pooled), _other_pooled(target, reads))
    _compare(loaded, model, target, reads)


def _other_pooled(target: Writes, reads: Reads) -> str:
    own = f"a pooled vector of {target.pooled}" if target.pooled else "no pooled vector"
    return (
        f"this bridge was trained for {target.name}, {own}, and the model here, {reads.name}, "
        f"reads one of {reads.pooled}; {ADVICE}"
    )


def _check_rows(target: Writes, reads: Reads) -> None:
    check(
        reads.rows == target.width,
        f"this bridge was trained for {target.name}, rows of {target.width}, and the model here, "
        f"{reads.name}, reads rows of {reads.rows}; {ADVICE}",
    )


def _compare(loaded: Loaded, model: Any, target: Writes, reads: Reads) -> None:
    """Tell of what widths do not show."""
    tell_encoder(loaded, model)
    _tell_padding(loaded, model, target, reads)


def _tell_padding(loaded: Loaded, model: Any, target: Writes, reads: Reads) -> None:
    """Tell of padding that a bridge has not learnt, as its encoder masks it, and a model reads."""
    if not isinstance(loaded, LoadedBridge) or not learnt_no_padding(loaded):
        return
    if drops_masks(model, target.width):
        note(
            f"the model here, {reads.name}, reads the padding of {target.name}'s rows too, though "
            "that masks it, and this bridge has learnt nothing of it; record the encoder once "
            "more, under another name, and train the bridge from that recording"
        )
