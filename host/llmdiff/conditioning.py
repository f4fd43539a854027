"""What CONDITIONING carries for LLMDiff adapters: LLMs' readings of the prompt, block by block.

An entry is ``[c0, values]``; whatever else it holds (the checkpoint's own text, area, mask, range,
hooks) stays. Under the keys below are tensors, numbers and strings in dicts and nothing else, so
that the host can save, move and train on them. The learnt parts are in the adapter's file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...lidit_core.errors import LiDiTError
from ...lidit_core.text.states import LLMStates
from ..keys import LLMDIFF as STATES
from ..keys import Entry

ROLES, NAMES = "llmdiff_roles", "llmdiff_llm"
READINGS, USED = "llmdiff_reading", "llmdiff_used"
KEYS = (STATES, ROLES, NAMES, READINGS, USED)

CLIP_TOKENS, POOLED_WIDTH = 77, 1280
WIDTHS = {"SD1.5": 768, "SDXL": 2048}  # of a checkpoint's own text


@dataclass(frozen=True)
class Reading:
    """One LLM's reading of a prompt."""

    llm: str
    states: LLMStates  # of block "differences", 1 row from the encoder
    reading: str  # see `reading_of`
    used: int = 0  # tokens of the prompt that were read, the template's not counted; 0 = not known


def blank(base: str) -> Entry:
    """An entry without any text of the checkpoint's own.

    Its zeros are negative: they count as zeros everywhere, and those of ConditioningZeroOut, which
    touches no other text than this, are told from them.
    """
    c0 = torch.full((1, CLIP_TOKENS, WIDTHS[base]), -0.0)
    return [c0, {"pooled_output": torch.zeros(1, POOLED_WIDTH)}]


def zeroed_out(c0: Tensor | None) -> bool:
    """Whether a node of the host has emptied this entry."""
    return c0 is not None and not bool(c0.any()) and not bool(torch.signbit(c0).all())


def joined(conditioning: Sequence[Entry], reading: Reading) -> list[Entry]:
    """The same entries, each with this reading as well.

    Raises:
        LiDiTError: one of them holds this LLM's reading already.
    """
    return [[c0, {**values, **_added(values, reading)}] for c0, values in conditioning]


def _added(values: Mapping[str, Any], new: Reading) -> dict[str, dict]:
    known = readings_of(values)
    if any((old.llm, old.reading) == (new.llm, new.reading) for old in known):
        raise LiDiTError(
            f"this conditioning already holds what {new.llm} reads; write both texts into one "
            "prompt, or join two LLMDiff Encodes with ConditioningCombine"
        )
    numbered = {str(i): reading for i, reading in enumerate((*known, new))}
    return {
        STATES: {i: r.states.hidden for i, r in numbered.items()},
        ROLES: {i: r.states.roles for i, r in numbered.items()},
        NAMES: {i: r.llm for i, r in numbered.items()},
        READINGS: {i: r.reading for i, r in numbered.items()},
        USED: {i: r.used for i, r in numbered.items()},
    }


def readings_of(values: Mapping[str, Any]) -> tuple[Reading, ...]:
    """All that an entry holds; none for one of another encoder."""
    hidden = values.get(STATES, {})
    return tuple(
        Reading(
            values[NAMES][i],
            LLMStates(hidden[i], values[ROLES][i].to(torch.int32)),
            values[READINGS][i],
            int(values[USED][i]),
        )
        for i in sorted(hidden, key=int)
    )
