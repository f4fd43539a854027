"""What LLMs read of one prompt, as values that files and hosts carry, and back.

The values hold all LLMs under the names below, as tensors, numbers and strings in dicts and nothing
else, so that a host can save, move and train on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..io.conditioning import EncodedPrompt, EncodedPrompts, read_encoded
from ..io.tensors import read_safetensors
from ..llm.blocks import Block, shown_block
from ..text.states import PADDING, LLMStates
from ..text.templates import InstructionTemplate
from .refiners import BranchOptions

HIDDEN, ROLES, NAMES = "lidit_hidden", "lidit_roles", "lidit_llm"
BRANCHES, OPTIONS, FUSION = "lidit_branch", "lidit_options", "lidit_fusion"
READINGS, USED, FINGERPRINTS = "lidit_reading", "lidit_used", "lidit_fingerprint"
EMPHASIS = "lidit_emphasis"  # weights of tokens, of the LLMs whose prompt has some
PLACES = "lidit_places"  # of tokens in the prompt, see `TokenPlaces`, where they are known
NOT_CHOSEN = -1  # a branch by its LLM's name; a switch as the model's configuration has it
OLDER = (".hidden", ".roles")  # of the tensors' names, in files that `lidit encode` wrote at first


def reading_of(block: Block, template: InstructionTemplate) -> str:
    """How an LLM is read, as one string: refiners are trained on one way of reading it."""
    return f"{shown_block(block)} {template.to_json()}"


@dataclass(frozen=True, eq=False)
class BranchText:
    """One LLM's reading of a prompt."""

    llm: str
    states: LLMStates  # B rows; 1 straight from the encoder
    branch: int | None = None  # of the model; None = the one trained on the LLM of this name
    options: BranchOptions = BranchOptions()
    reading: str = ""  # see `reading_of`; "" = not known
    used: int = 0  # tokens of the prompt that were read, the template's not counted; 0 = not known
    fingerprint: str = ""  # of the LLM's weights, see `llm/fingerprint.py`; "" = not known
    places: str = ""  # of the tokens in the prompt, `TokenPlaces` as JSON; "" = not known

    def with_states(self, states: LLMStates) -> BranchText:
        return replace(self, states=states)


@dataclass(frozen=True, eq=False)
class PromptText:
    """All LLMs' readings of one prompt."""

    branches: tuple[BranchText, ...]
    fusion: str | None = None  # None = as the model's configuration has it

    def emptied(self) -> PromptText:
        """No text at all: what a zeroed-out conditioning means."""
        empty = tuple(
            replace(b, states=b.states.emptied(), used=0, places="") for b in self.branches
        )
        return replace(self, branches=empty)


def stored_values(text: PromptText) -> dict[str, Any]:
    """The values of an entry, all of which a file holds."""
    numbered = {str(i): branch for i, branch in enumerate(text.branches)}
    return {
        HIDDEN: {i: b.states.hidden for i, b in numbered.items()},
        ROLES: {i: b.states.roles for i, b in numbered.items()},
        NAMES: {i: b.llm for i, b in numbered.items()},
        BRANCHES: {i: NOT_CHOSEN if b.branch is None else b.branch for i, b in numbered.items()},
        OPTIONS: {i: _numbers(b.options) for i, b in numbered.items()},
        READINGS: {i: b.reading for i, b in numbered.items()},
        USED: {i: b.used for i, b in numbered.items()},
        FINGERPRINTS: {i: b.fingerprint for i, b in numbered.items()},
        **_known(EMPHASIS, {i: b.states.emphasis for i, b in numbered.items()}),
        **_known(PLACES, {i: b.places or None for i, b in numbered.items()}),
        FUSION: text.fusion or "",
    }


def stored_branch(values: Mapping[str, Any], i: str) -> BranchText:
    """The reading of this number, of the values of an entry."""
    branch, numbers = int(values[BRANCHES][i]), values[OPTIONS][i]
    return BranchText(
        values[NAMES][i],
        LLMStates(
            values[HIDDEN][i],
            values[ROLES][i].to(torch.int32),
            emphasis=values.get(EMPHASIS, {}).get(i),
        ),
        None if branch == NOT_CHOSEN else branch,
        BranchOptions(
            _switch(numbers["full_attention"]),
            _switch(numbers["gated"]),
            float(numbers["strength"]),
            float(numbers["weight"]),
        ),
        values[READINGS][i],
        int(values.get(USED, {}).get(i, 0)),
        values.get(FINGERPRINTS, {}).get(i, ""),
        values.get(PLACES, {}).get(i, ""),
    )


def encoded_prompt(text: PromptText, prompt: str = "") -> EncodedPrompt:
    """A prompt as a file holds it, with its first LLM's states in front and their mean beside."""
    first = text.branches[0].states
    values = {"pooled_output": mean_state(first), **stored_values(text)}
    return EncodedPrompt([(first.hidden, values)], prompt)


def read_encoded_prompts(path: str | Path) -> EncodedPrompts:
    """Read a file of encoded prompts, also one that `lidit encode` wrote before 0.1.

    Raises:
        LiDiTError: see `read_encoded`.
    """
    tensors, metadata = read_safetensors(path)
    names = {name.removesuffix(OLDER[0]) for name in tensors if name.endswith(OLDER[0])}
    if "format" in metadata or set(tensors) != {name + part for name in names for part in OLDER}:
        return read_encoded(path)
    order = [name.removesuffix(OLDER[0]) for name in tensors if name.endswith(OLDER[0])]
    read = (LLMStates(tensors[n + OLDER[0]][None], tensors[n + OLDER[1]][None]) for n in order)
    text = PromptText(tuple(BranchText(n, states) for n, states in zip(order, read)))
    return EncodedPrompts([encoded_prompt(text, metadata.get("prompt", ""))])


@torch.inference_mode(False)
def mean_state(states: LLMStates) -> Tensor:
    """The mean (B, C) float32 of each row's tokens; zeros where there is none."""
    real = (states.roles != PADDING).to(torch.float32)[..., None]
    return (states.hidden.float() * real).sum(1) / real.sum(1).clamp(min=1)


def _known(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are not None, as one entry of this name; no entry where all are None."""
    given = {i: of for i, of in values.items() if of is not None}
    return {name: given} if given else {}


def _numbers(options: BranchOptions) -> dict[str, float]:
    return {
        "full_attention": _number(options.full_attention),
        "gated": _number(options.gated),
        "strength": options.strength,
        "weight": options.weight,
    }


def _number(switch: bool | None) -> int:
    return NOT_CHOSEN if switch is None else int(switch)


def _switch(number: float) -> bool | None:
    return None if number == NOT_CHOSEN else bool(number)
