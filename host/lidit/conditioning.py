"""What CONDITIONING carries: each LLM's states of the prompt, and how they are to be used.

An entry is ``[c0, values]``. ``c0`` is the first LLM's state sequence, so that the host's own nodes
find what they expect; the values hold all LLMs under the keys below, as tensors, numbers and
strings in dicts and nothing else, so that the host can save, move and train on them. Only
`ForLiDiT` beside them is an object, and a file leaves it out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...lidit_core.errors import LiDiTError, check
from ...lidit_core.model.prompt_text import (
    BRANCHES,
    EMPHASIS,
    FINGERPRINTS,
    FUSION,
    HIDDEN,
    NAMES,
    OPTIONS,
    PLACES,
    READINGS,
    ROLES,
    BranchText,
    PromptText,
    stored_branch,
    stored_values,
)
from ...lidit_core.model.refiners import BranchOptions
from ...lidit_core.text.states import LLMStates
from ..entries import name_at, readable, text_at
from ..keys import LLMDIFF, MODEL_CONDS, TEXT, HostEntry
from ..marks import check_first, holds, mark_of, marked, same_numbers
from ..node_notes import note

MARK = "lidit_mark"  # of what nodes that mix first tensors would leave as the first prompt has it
MULTIPLIED = 1e-3  # how far from 1 a factor is, of states that a node has multiplied


class ForLiDiT(dict):
    """Conditions that a LI-DiT replaces by its own (`HostModel.extra_conds`) and no other model.

    So a model of another kind is told what is wrong, where it would fail at the shape of a tensor.
    """

    def __init__(self, llms: str) -> None:
        super().__init__({TEXT: AnotherModel(llms)})

    def __reduce__(self):
        return OrderedDict, ()


@dataclass(frozen=True)
class AnotherModel:
    """A condition's handle for the host; asked for the batch when a model draws, it refuses."""

    llms: str

    def process_cond(self, **_) -> None:
        raise LiDiTError(
            f"this conditioning is for a LI-DiT (states of {self.llms}), and the model is another; "
            "connect a LI-DiT model, or encode the prompt with the model's own CLIP, which LLMDiff "
            "Encode and LLMDiff Apply let an LLM help"
        )


def for_lidit(llms: Iterable[str]) -> ForLiDiT:
    """The model_conds of an entry whose states are those LLMs'."""
    return ForLiDiT(", ".join(llms))


def values_of(text: PromptText) -> dict[str, Any]:
    """The values of an entry."""
    values = stored_values(text)
    if text.fusion or len(text.branches) > 1 or not all(map(_is_plain, text.branches)):
        values[MARK] = {"0": _mark(values)}
    return {**values, MODEL_CONDS: for_lidit(b.llm for b in text.branches)}


def _is_plain(read: BranchText) -> bool:
    """Whether a reading is its states alone: no switch is set, and no token has a weight."""
    unset = read.branch is None and read.options == BranchOptions()
    return unset and read.states.emphasis is None


def _mark(values: Mapping[str, Any]) -> str:
    tensors = [values[name][i] for name in (HIDDEN, ROLES) for i in values[name]]
    tensors += values.get(EMPHASIS, {}).values()
    return mark_of(tensors, [values[name] for name in (NAMES, BRANCHES, OPTIONS, FUSION)])


def sequence_of(values: Mapping[str, Any]) -> Tensor:
    """An entry's first tensor: the first LLM's states, with the mark of what lies beside them."""
    hidden, mark = values[HIDDEN]["0"], values.get(MARK)
    return marked(hidden, mark["0"]) if mark else hidden


def entry_of(text: PromptText, like: HostEntry | None = None) -> HostEntry:
    """An entry with this text; what else ``like`` carries (area, mask, range, hooks) is kept."""
    kept = dict(like[1]) if like is not None else {"pooled_output": None}
    for name in (EMPHASIS, PLACES, MARK):
        kept.pop(name, None)
    values = values_of(text)
    return [sequence_of(values), {**kept, **values}]


def text_of(c0: Tensor | None, values: Mapping[str, Any]) -> PromptText:
    """The text that an entry carries.

    Raises:
        LiDiTError: it comes from another encoder, or a node changed ``c0`` in a way that the
            other LLMs cannot follow.
    """
    if HIDDEN not in values and LLMDIFF in values:
        raise LiDiTError(
            "this conditioning is from LLMDiff Encode, which is for SD1.5 and SDXL models with an "
            "LLMDiff adapter; connect a prompt from LI-DiT Text Encode or CLIP Text Encode to a "
            "LI-DiT"
        )
    if HIDDEN not in values and c0 is None:
        raise LiDiTError(
            "a node gave the sampler a conditioning without any text, as some guiders do where "
            "their negative prompt is left open; connect a prompt there, which may be empty"
        )
    if HIDDEN not in values:
        raise LiDiTError(
            "this conditioning holds no LLM states: it was encoded by another text encoder; "
            "connect a prompt that was encoded with a CLIP from the LI-DiT LLM loader"
        )
    with readable():
        for i in values[HIDDEN]:
            check_names(values, i)
        branches = tuple(stored_branch(values, i) for i in sorted(values[HIDDEN], key=int))
        check(bool(branches), "this conditioning holds no LLM's states; encode the prompt again")
        mark = text_at(values[MARK], "0") if values.get(MARK) else ""
        return _followed(PromptText(branches, values.get(FUSION) or None), c0, mark)


def check_names(values: Mapping[str, Any], i: str) -> None:
    """Refuse a reading whose LLM or way of reading is named by none of the pack's texts."""
    name_at(values[NAMES], i)
    text_at(values[READINGS], i)
    if FINGERPRINTS in values:
        text_at(values[FINGERPRINTS], i)
    if i in values.get(PLACES, {}):
        text_at(values[PLACES], i)


def _followed(text: PromptText, c0: Tensor | None, mark: str) -> PromptText:
    """The text after what the host's own nodes did to ``c0`` alone."""
    check_first(c0)
    first = text.branches[0].states
    if c0 is None or _is_as_it_was(c0, first.hidden, mark):
        return text
    if not c0.any():  # ConditioningZeroOut
        return text.emptied()
    llm = text.branches[0].llm
    if c0.shape == first.hidden.shape and (scale := _scale(first, c0)):  # ConditioningMultiply
        note(
            f"a node multiplied the states of {llm} by {scale:.3g}, which has no effect: the "
            "refiner brings them to one size; use the strength of LI-DiT Prompt Refiner, or "
            "write a weight into the prompt, as (word:1.3), and switch on emphasis in LI-DiT Text "
            "Encode"
        )
        return _with_first(text, c0)
    if c0.shape == first.hidden.shape and len(text.branches) == 1:  # ConditioningAverage and kin
        note(_changed(llm, first))
        return _with_first(text, c0)
    raise LiDiTError(
        f"a node changed this conditioning's first tensor to {tuple(c0.shape)}, which its "
        f"{len(text.branches)} LLMs' states of {tuple(first.hidden.shape)} cannot follow; instead "
        "of concatenating, averaging or applying a style model, write both into one prompt or use "
        "ConditioningCombine"
    )


def _is_as_it_was(c0: Tensor, hidden: Tensor, mark: str) -> bool:
    if mark:
        return holds(c0, hidden, mark)
    return same_numbers(c0, hidden.to(c0))


def _with_first(text: PromptText, hidden: Tensor) -> PromptText:
    """The text with other states of the first LLM."""
    first, *others = text.branches
    changed = first.with_states(first.states.with_hidden(hidden))
    return replace(text, branches=(changed, *others))


def _scale(first: LLMStates, c0: Tensor) -> float:
    """What the states were multiplied by, more than 0; 0 where something else was done to them."""
    scale = float(c0.float().norm() / first.hidden.float().norm())
    same = torch.allclose(c0.float(), first.hidden.float() * scale, rtol=1e-2, atol=0)
    return scale if same and abs(scale - 1) > MULTIPLIED else 0.0


def _changed(llm: str, first: LLMStates) -> str:
    """What a note says of states that a node of the host has changed."""
    return (
        f"a node changed the states of {llm}, and they are read as the {first.roles.shape[1]} "
        "tokens of its first prompt: of a longer other prompt the end is left out, and of a "
        "shorter one nothing is added there; of several LLMs fused in the other prompt only the "
        "first is mixed in, and weights and strengths are those of the first prompt"
    )
