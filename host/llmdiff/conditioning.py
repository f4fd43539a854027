"""What CONDITIONING carries for LLMDiff adapters: LLMs' readings of the prompt, block by block.

An entry is ``[c0, values]``; whatever else it holds (the checkpoint's own text, area, mask, range,
hooks) stays. Under the keys below are tensors, numbers and strings in dicts and nothing else, so
that the host can save, move and train on them. The learnt parts are in the adapter's file.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from comfy.conds import CONDConstant
from torch import Tensor

from ...lidit_core.errors import LiDiTError, shown
from ...lidit_core.text.states import LLMStates
from ..entries import name_at, readable, text_at
from ..keys import LLMDIFF as STATES
from ..keys import MODEL_CONDS, HostEntry
from ..marks import check_first, holds, mark_of, marked, same_numbers
from ..node_notes import note

ROLES, NAMES = "llmdiff_roles", "llmdiff_llm"
READINGS, USED, FINGERPRINTS = "llmdiff_reading", "llmdiff_used", "llmdiff_fingerprint"
OWN = "llmdiff_own"  # the entry's first tensor when the first reading was joined
MARK = "llmdiff_mark"  # of the readings, which the entry's first tensor holds since then

CLIP_TOKENS, POOLED_WIDTH = 77, 1280
WIDTHS = {"SD1.5": 768, "SDXL": 2048}  # of a checkpoint's own text


@dataclass(frozen=True, eq=False)
class LLMText:
    """One LLM's reading of a prompt."""

    llm: str
    states: LLMStates  # of block "differences", 1 row from the encoder
    reading: str  # see `reading_of`
    used: int = 0  # tokens of the prompt that were read, the template's not counted; 0 = not known
    fingerprint: str = ""  # of the LLM's weights, see `llm/fingerprint.py`; "" = not known


KEPT, EMPTIED, CHANGED = "kept", "emptied", "changed"


class ForAdapter(dict):
    """Conditions that an adapter takes away, and that speak up where there is none."""

    def __init__(self, llm: str, alone: bool) -> None:
        super().__init__({STATES: NoAdapter(llm, alone)})

    def __reduce__(self):
        return OrderedDict, ()


@dataclass(frozen=True)
class NoAdapter:
    """A condition's handle for the host; asked for the batch at sampling, it warns or refuses."""

    llm: str
    alone: bool  # the entry has no text of the checkpoint's own

    def process_cond(self, **_) -> CONDConstant:
        told = (
            f"this conditioning holds what {self.llm} reads, and the model has no LLMDiff adapter "
            "that would use it; put LLMDiff Apply between the checkpoint and the sampler"
        )
        if self.alone:
            raise LiDiTError(told)
        note(told)
        return CONDConstant(None)


def blank(base: str) -> HostEntry:
    """An entry without any text of the checkpoint's own."""
    c0 = torch.zeros(1, CLIP_TOKENS, WIDTHS[base])
    return [c0, {"pooled_output": torch.zeros(1, POOLED_WIDTH)}]


def what_became(c0: Tensor | None, values: Mapping[str, Any]) -> str:
    """What nodes of the host have done to an entry's first tensor since it was joined.

    The zeros of ConditioningZeroOut have other signs than marked ones.
    """
    own, mark = values.get(OWN), values.get(MARK)
    if own is not None and not isinstance(own, Tensor):
        raise LiDiTError(
            f"this conditioning has {shown(own)} where LLMDiff Encode puts a tensor; encode the "
            "prompt again"
        )
    for tensor in (own, c0):
        check_first(tensor)
    if c0 is None:
        return KEPT
    if own is not None and mark:
        with readable():
            if holds(c0, own, text_at(mark, "0")):
                return KEPT
        return EMPTIED if _is_empty(c0) else CHANGED
    return _of_an_older(c0, own)


def _of_an_older(c0: Tensor, own: Tensor | None) -> str:
    """The same for an entry without a mark, which an older version has made.

    Where the checkpoint had no text, the zeros had the signs of the LLM's states.
    """
    if _is_empty(c0):
        return KEPT if own is not None and _is_empty(own) else EMPTIED
    if own is None:
        return KEPT
    return KEPT if same_numbers(c0, own.to(c0)) else CHANGED


def _is_empty(c0: Tensor) -> bool:
    """Whether all are zeros as a node makes them."""
    return same_numbers(c0, torch.zeros_like(c0))


def joined(conditioning: Sequence[HostEntry], llm_text: LLMText) -> list[HostEntry]:
    """The same entries, each with this reading as well.

    Raises:
        LiDiTError: one of them holds this LLM's reading already.
    """
    return [_joined(c0, values, llm_text) for c0, values in conditioning]


def _joined(c0: Tensor, values: Mapping[str, Any], new: LLMText) -> HostEntry:
    known = readings_of(values)
    if any((old.llm, old.reading) == (new.llm, new.reading) for old in known):
        raise LiDiTError(
            f"this conditioning already holds what {new.llm} reads; write both texts into one "
            "prompt, or join two LLMDiff Encodes with ConditioningCombine"
        )
    texts = (*known, new)
    if not known:
        front, more = _marked(c0, texts)
    elif MARK in values and what_became(c0, values) == KEPT:
        front, more = _marked(values[OWN], texts)
    else:  # it stays seen that a node has changed it between the two
        front, more = c0, {OWN: values.get(OWN, c0)}
    numbered = {str(i): text for i, text in enumerate(texts)}
    added = {
        STATES: {i: r.states.hidden for i, r in numbered.items()},
        ROLES: {i: r.states.roles for i, r in numbered.items()},
        NAMES: {i: r.llm for i, r in numbered.items()},
        READINGS: {i: r.reading for i, r in numbered.items()},
        USED: {i: r.used for i, r in numbered.items()},
        FINGERPRINTS: {i: r.fingerprint for i, r in numbered.items()},
        MODEL_CONDS: ForAdapter(new.llm, alone=not bool(c0.any())),
    }
    return [front, {**values, **added, **more}]


def _marked(own: Tensor, texts: Sequence[LLMText]) -> tuple[Tensor, dict[str, Any]]:
    """An entry's first tensor with the mark of its readings, and what is kept of both."""
    tensors = [tensor for text in texts for tensor in (text.states.hidden, text.states.roles)]
    mark = mark_of(tensors, [(text.llm, text.reading) for text in texts])
    return marked(own, mark), {OWN: own, MARK: {"0": mark}}


def readings_of(values: Mapping[str, Any]) -> tuple[LLMText, ...]:
    """All that an entry holds; none for one of another encoder."""
    hidden = values.get(STATES, {})
    with readable():
        return tuple(
            LLMText(
                name_at(values[NAMES], i),
                LLMStates(hidden[i], values[ROLES][i].to(torch.int32)),
                text_at(values[READINGS], i),
                int(values[USED][i]),
                text_at(values[FINGERPRINTS], i) if FINGERPRINTS in values else "",
            )
            for i in sorted(hidden, key=int)
        )
