"""What an adapter reads of the host's conditioning entries at a step of sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...lidit_core.errors import LiDiTError
from ...lidit_core.llmdiff.adapter import LLMDiffAdapter
from ...lidit_core.llmdiff.config import AdapterConfig
from ...lidit_core.text.spec import LLMSpec, place_of
from ...lidit_core.text.states import PROMPT, LLMStates
from ..attention import attend
from ..keys import reading_of
from ..node_notes import note
from ..prompt_lengths import tell_length
from .conditioning import CHANGED, EMPTIED, LLMText, readings_of, what_became
from .conds import AddedText

APPLICATION_KEY = "llmdiff"  # the beginning of every application's key
LARGEST = 1e18  # of a state: no LLM's is near it, and the square of a larger one may be infinite

Cond = dict[str, Any]


@dataclass(frozen=True)
class Use:
    """How one adapter is applied to one MODEL."""

    key: str  # of this application on this MODEL
    adapter: LLMDiffAdapter
    mode: str
    strength: float
    start: float  # of sampling, 0 to 1
    end: float

    @property
    def config(self) -> AdapterConfig:
        return self.adapter.config

    @property
    def replaces(self) -> bool:
        return self.mode == "replace"


@dataclass(frozen=True, eq=False)
class StepText:
    """One prompt as it is read at a step."""

    added: AddedText
    context: Tensor | None = None  # φ(c), in mode ``replace``
    pooled: Tensor | None = None  # for SDXL


class SamplingTexts:
    """What one application of an adapter has read during one sampling; each prompt is read once."""

    def __init__(self, use: Use) -> None:
        self.use = use
        self._read: dict[int, list] = {}  # by the id of the states, which are kept beside
        self._own: dict[int, tuple[Tensor | None, str]] = {}  # by the id of the first tensor
        self._noted: set[str] = set()
        self._lengths: set[int] = set()  # tokens of the prompts that were looked at

    def has_text(self, entries: Sequence[Cond], patcher) -> bool:
        """Whether an entry holds what this adapter reads, or what none does, which a step tells."""
        spec, found = self.use.config.llm, [r for entry in entries for r in readings_of(entry)]
        if not found or any(_is_read(spec, llm_text) for llm_text in found):
            return bool(found)
        return not _llms(patcher) & {llm_text.llm for llm_text in found}

    def text(self, cond: Cond, model, x: Tensor, sigma: Tensor) -> StepText | None:
        """What this adapter reads of an entry at this step; None = nothing."""
        llm_text = self._llm_text(cond, model)
        if llm_text is None:
            return None
        became = self.own_text(cond)
        if became == EMPTIED:
            return None
        if became == CHANGED:
            self._tell_changed()
        if llm_text.used not in self._lengths:
            self._lengths.add(llm_text.used)
            tell_length(self.use.config.llm, llm_text.used)
        hidden = llm_text.states.hidden
        known = self._read.get(id(hidden))
        if known is None:  # the tensor is kept, so that no other gets its id
            check_numbers(llm_text)
            kept = llm_text.states.roles == PROMPT
            known = [hidden, llm_text.states.to(x.device, torch.float32), kept.cpu(), None]
            self._read[id(hidden)] = known
        _, states, kept, text = known
        if not bool(kept.any()):
            return None
        if text is None or self.use.adapter.changes_with_time:
            t = model.model_sampling.timestep(sigma[:1]).float().expand(len(states)).to(x.device)
            text = known[3] = self._read_at(states, kept, t)
        return text

    def _read_at(self, states: LLMStates, kept: Tensor, t: Tensor) -> StepText:
        use = self.use
        text = use.adapter.read(states, t, attention=attend)
        rows = tuple(kept.any(dim=1).tolist())
        all_seen = bool(kept[:, kept.shape[1] - text.seen.shape[1] :].all())
        replaces = (use.replaces,) * len(rows)
        added = AddedText(replace(text, all_seen=all_seen), rows, replaces)
        if not use.replaces:
            return StepText(added)
        pooled = use.adapter.pooled(text) if use.config.pooled_width else None
        return StepText(added, use.adapter.context(text), pooled)

    def own_text(self, cond: Cond) -> str:
        """What nodes have made of the entry's first tensor after its LLM text was joined."""
        c0 = cond.get("cross_attn")
        if id(c0) not in self._own:
            self._own[id(c0)] = c0, what_became(c0, cond)
        return self._own[id(c0)][1]

    def _tell_changed(self) -> None:
        if self.use.replaces:
            raise LiDiTError(
                "a node mixed or changed this conditioning after LLMDiff Encode (Average, Concat "
                f"and others do), and what {self.use.config.llm.name} reads, which is the only "
                "text in mode replace, cannot follow; write both into one prompt, or use "
                "ConditioningCombine"
            )
        self.note(
            "a node changed the checkpoint's own text after LLMDiff Encode, and what "
            f"{self.use.config.llm.name} reads did not follow: it is the first prompt's alone; put "
            "that node before LLMDiff Encode, or use ConditioningCombine"
        )

    def _llm_text(self, cond: Cond, model) -> LLMText | None:
        """The adapter's LLM's; None for an entry that is for no adapter, or for another one."""
        spec, found = self.use.config.llm, readings_of(cond)
        ours = [llm_text for llm_text in found if _is_read(spec, llm_text)]
        if not ours:
            wanted = _llms(model.current_patcher) | {spec.name}
            if found and not wanted & {llm_text.llm for llm_text in found}:
                raise LiDiTError(
                    f"this conditioning is what {found[0].llm} reads, and the adapter was trained "
                    f"on {spec.name}; load that LLM in the LLM loader, or another adapter"
                )
            return None
        alike = [r for r in ours if r.reading == reading_of(spec.block, spec.template)]
        if not alike:
            self._check_form(ours)
            raise LiDiTError(
                f"{spec.name} read this conditioning with another template than the adapter was "
                f"trained with; choose template {spec.template.name!r} in the LLM loader"
            )
        self._check_size(alike[0])
        if told := spec.weights_note(alike[0].llm, alike[0].fingerprint):
            self.note(told)
        return alike[0]

    def _check_form(self, ours: Sequence[LLMText]) -> None:
        """Refuse readings that are all of another block, or of other blocks, than the adapter's."""
        config = self.use.config
        block = reading_of(config.llm.block, config.llm.template).split()[0]
        if not any(r.reading.split()[:1] == [block] for r in ours):
            raise LiDiTError(
                f"{config.llm.name} read this conditioning at another layer than the adapter, of "
                f"the form {config.form}, was trained with; set the LLM loader's layer to "
                f"{config.layer}"
            )

    def _check_size(self, llm_text: LLMText) -> None:
        config = self.use.config
        spec, wanted = config.llm, config.states_width
        if llm_text.states.width != wanted:
            raise LiDiTError(
                f"what {llm_text.llm} reads is {llm_text.states.width} wide, and the adapter was "
                f"trained on a {spec.name} with {wanted} ({config.blocks} blocks of {spec.width}); "
                "load that LLM in the LLM loader"
            )
        if llm_text.used > spec.token_budget:
            self.note(
                f"{llm_text.used} tokens of the prompt are read, and the LLMDiff adapter was "
                f"trained with at most {spec.token_budget}; set the LLM loader's token budget to "
                "that"
            )

    def note(self, sentence: str) -> None:
        """Tell of something once a sampling."""
        if sentence not in self._noted:
            self._noted.add(sentence)
            note(sentence)


def _is_read(spec: LLMSpec, llm_text: LLMText) -> bool:
    """Whether it is by the LLM of this name, or by the same under another."""
    return place_of([spec], llm_text.llm, llm_text.fingerprint) is not None


def check_numbers(llm_text: LLMText) -> None:
    """Refuse states of which no picture can be made."""
    if not bool((llm_text.states.hidden.abs() < LARGEST).all()):
        raise LiDiTError(
            f"what {llm_text.llm} reads, in this conditioning, holds numbers that are not finite "
            f"or beyond {LARGEST:g}; take out the node that changed it, or encode the prompt again"
        )


def _llms(patcher) -> set[str]:
    """The LLMs of all adapters that are applied to the running MODEL."""
    added = getattr(patcher, "additional_models", {})
    uses = [patchers for key, patchers in added.items() if key.startswith(APPLICATION_KEY)]
    return {patcher.model.config.llm.name for patchers in uses for patcher in patchers}
