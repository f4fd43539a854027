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
from ..keys import MODEL_CONDS, Entry
from ..node_notes import note

ROLES, NAMES = "llmdiff_roles", "llmdiff_llm"
READINGS, USED, FINGERPRINTS = "llmdiff_reading", "llmdiff_used", "llmdiff_fingerprint"
OWN = "llmdiff_own"  # the entry's first tensor when the first reading was joined
KEYS = (STATES, ROLES, NAMES, READINGS, USED, FINGERPRINTS, OWN, MODEL_CONDS)

CLIP_TOKENS, POOLED_WIDTH = 77, 1280
WIDTHS = {"SD1.5": 768, "SDXL": 2048}  # of a checkpoint's own text


@dataclass(frozen=True)
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
    """Where the host expects a condition's handle; it asks for the batch when a model draws."""

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


def blank(base: str, llm_text: LLMText) -> Entry:
    """An entry without any text of the checkpoint's own.

    Its zeros have the signs of the LLM's states. They count as zeros everywhere, and it can be
    seen that a node has put others in their place: those of ConditioningZeroOut are positive, and
    those of an average have the signs of neither prompt.
    """
    c0 = torch.zeros(1, CLIP_TOKENS, WIDTHS[base])
    signs = torch.where(torch.signbit(llm_text.states.hidden.float().cpu().flatten()), -1.0, 1.0)
    signs = torch.cat([torch.tensor([-1.0]), signs])  # at least one, for a prompt without tokens
    repeats = -(-c0.numel() // len(signs))
    c0 = c0.copysign(signs.repeat(repeats)[: c0.numel()].view_as(c0))
    return [c0, {"pooled_output": torch.zeros(1, POOLED_WIDTH)}]


def what_became(c0: Tensor | None, own: Tensor | None) -> str:
    """What nodes of the host have done to an entry's first tensor since it was joined.

    Args:
        own: the tensor as it was then; None = an entry that an older version has made.
    """
    if own is not None and not (isinstance(own, Tensor) and own.is_floating_point()):
        raise LiDiTError(
            f"this conditioning has {shown(own)} where LLMDiff Encode puts a tensor; encode the "
            "prompt again"
        )
    if c0 is None:
        return KEPT
    if not bool(c0.any()) and not bool(torch.signbit(c0).any()):
        return EMPTIED if own is None or bool(own.any()) or bool(torch.signbit(own).any()) else KEPT
    if own is None:
        return KEPT
    own = own.to(c0)
    same = c0.shape == own.shape and torch.equal(c0, own)
    return KEPT if same and torch.equal(torch.signbit(c0), torch.signbit(own)) else CHANGED


def joined(conditioning: Sequence[Entry], llm_text: LLMText) -> list[Entry]:
    """The same entries, each with this reading as well.

    Raises:
        LiDiTError: one of them holds this LLM's reading already.
    """
    return [[c0, {**values, **_added(c0, values, llm_text)}] for c0, values in conditioning]


def _added(c0: Tensor, values: Mapping[str, Any], new: LLMText) -> dict[str, Any]:
    known = readings_of(values)
    if any((old.llm, old.reading) == (new.llm, new.reading) for old in known):
        raise LiDiTError(
            f"this conditioning already holds what {new.llm} reads; write both texts into one "
            "prompt, or join two LLMDiff Encodes with ConditioningCombine"
        )
    numbered = {str(i): text for i, text in enumerate((*known, new))}
    return {
        STATES: {i: r.states.hidden for i, r in numbered.items()},
        ROLES: {i: r.states.roles for i, r in numbered.items()},
        NAMES: {i: r.llm for i, r in numbered.items()},
        READINGS: {i: r.reading for i, r in numbered.items()},
        USED: {i: r.used for i, r in numbered.items()},
        FINGERPRINTS: {i: r.fingerprint for i, r in numbered.items()},
        OWN: values.get(OWN, c0),
        MODEL_CONDS: ForAdapter(new.llm, alone=not bool(c0.any())),
    }


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
