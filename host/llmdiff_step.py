"""What an adapter does with the host's conditions before each call of the model.

Its tokens, and in mode ``replace`` φ(c) and the pooled map, go into the conditions and through the
host's own batching; so areas, masks, ranges, CFG and ControlNets see them as any other.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from comfy.conds import CONDCrossAttn, CONDRegular
from torch import Tensor

from ..lidit_core.errors import LiDiTError
from ..lidit_core.llmdiff.adapter import LLMDiffAdapter
from ..lidit_core.llmdiff.config import AdapterConfig
from ..lidit_core.text.states import PROMPT, LLMStates
from .attention import attend
from .keys import HIDDEN, reading_of
from .keys import LLMDIFF as STATES
from .llmdiff_conditioning import CLIP_TOKENS, Reading, readings_of, zeroed_out
from .llmdiff_conds import AddedText, CONDAdded
from .prompt_lengths import tell_length

KEY = "llmdiff"  # of all applications' keys the beginning

log = logging.getLogger(__name__)

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


@dataclass(frozen=True)
class StepText:
    """One prompt as it is read at a step."""

    added: AddedText
    context: Tensor | None = None  # φ(c), in mode ``replace``
    pooled: Tensor | None = None  # for SDXL


class Conditions:
    """The host's conditions with an adapter's text in them."""

    def __init__(self, use: Use) -> None:
        self.use = use
        self._forget()

    def _forget(self) -> None:
        self._read: dict[int, tuple] = {}  # by states
        self._emptied: dict[int, tuple[Tensor, bool]] = {}  # by an entry's first tensor
        self._told: set[str] = set()
        self._lengths: set[int] = set()  # of prompts, in tokens, that were looked at

    def sampling(self, executor, *args, **options):
        """Around a whole sampling (WrappersMP.OUTER_SAMPLE)."""
        self._forget()
        try:
            return executor(*args, **options)
        finally:
            self._forget()

    def step(self, executor, model, conds, x: Tensor, sigma: Tensor, options: dict):
        """Around all calls of a step (WrappersMP.CALC_COND_BATCH)."""
        lists = [[self._checked(cond, model) for cond in given or ()] for given in conds]
        if self._active(model, sigma):
            lists = self._with_text(lists, model, x, sigma)
        changed = [None if given is None else new for given, new in zip(conds, lists)]
        return executor(model, changed, x, sigma, options)

    def _active(self, model, sigma: Tensor) -> bool:
        use = self.use
        if use.strength == 0:
            return False
        if (use.start, use.end) == (0, 1):
            return True
        first, last = (model.model_sampling.percent_to_sigma(p) for p in (use.start, use.end))
        return first >= float(sigma[0]) >= last

    def _checked(self, cond: Cond, model) -> Cond:
        """The entry, whose zeros are as wide as the model's text where it has none of its own."""
        if STATES not in cond:
            if HIDDEN in cond:
                raise LiDiTError(
                    "this conditioning is for a LI-DiT, and the model is a U-Net with an LLMDiff "
                    "adapter; connect LLMDiff Encode, or the checkpoint's own CLIP Text Encode"
                )
            return cond
        values, width = cond["model_conds"], self.use.config.context_width
        given = values.get("c_crossattn")
        if given is None or given.cond.shape[-1] == width or bool(given.cond.any()):
            return cond
        zeros = given.cond.new_zeros(len(given.cond), CLIP_TOKENS, width)
        return {**cond, "model_conds": {**values, "c_crossattn": CONDCrossAttn(zeros)}}

    def _with_text(self, lists: list[list[Cond]], model, x: Tensor, sigma: Tensor):
        texts = [[self._text(cond, model, x, sigma) for cond in given] for given in lists]
        known = next((text for given in texts for text in given if text), None)
        if known is None:
            self._warn(
                "no conditioning holds what %s reads, so the LLMDiff adapter does nothing; encode "
                "the prompt with LLMDiff Encode",
                self.use.config.llm.name,
            )
            return lists
        absent = known.added.absent()
        return [
            [self._given(cond, text, absent, x.device) for cond, text in zip(given, found)]
            for given, found in zip(lists, texts)
        ]

    def _given(self, cond: Cond, text: StepText | None, absent: AddedText, device) -> Cond:
        """The entry with this text, or with one that says that there is none."""
        values = dict(cond["model_conds"])
        if self.use.replaces:  # those that stay as they are must lie beside the others
            for name in {"c_crossattn", "y"} & values.keys():
                values[name] = values[name]._copy_with(values[name].cond.to(device))
        if text is not None and self.use.replaces:
            values |= self._replaced(values, text)
        values[self.use.key] = CONDAdded(absent if text is None else text.added)
        return {**cond, "model_conds": values}

    def _replaced(self, values: dict, text: StepText) -> dict:
        """What the checkpoint's own path, and a ControlNet, read instead."""
        new = {"c_crossattn": CONDCrossAttn(text.context)}
        for name, other in values.items():  # of several adapters the last one gives the text
            if isinstance(other, CONDAdded):
                new[name] = CONDAdded(other.cond.adding())
        if text.pooled is not None and "y" in values:
            rest = values["y"].cond[:, text.pooled.shape[1] :].to(text.pooled)
            rows = max(len(rest), len(text.pooled))
            parts = (text.pooled.expand(rows, -1), rest.expand(rows, -1))
            new["y"] = CONDRegular(torch.cat(parts, dim=1))
        return new

    def _text(self, cond: Cond, model, x: Tensor, sigma: Tensor) -> StepText | None:
        """What this adapter reads of an entry at this step; None = nothing."""
        reading = self._reading(cond, model)
        if reading is None or self._is_empty(cond):
            return None
        if reading.used not in self._lengths:
            self._lengths.add(reading.used)
            tell_length(self.use.config.llm, reading.used)
        hidden = reading.states.hidden
        known = self._read.get(id(hidden))
        if known is None:  # the tensor is kept, so that no other gets its id
            kept = reading.states.roles == PROMPT
            known = [hidden, reading.states.to(x.device, torch.float32), kept.cpu(), None]
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
        full = bool(kept[:, kept.shape[1] - text.seen.shape[1] :].all())
        replaces = (use.replaces,) * len(rows)
        added = AddedText(text, full, rows, replaces)
        if not use.replaces:
            return StepText(added)
        pooled = use.adapter.pooled(text) if use.config.pooled_width else None
        return StepText(added, use.adapter.context(text), pooled)

    def _is_empty(self, cond: Cond) -> bool:
        c0 = cond.get("cross_attn")
        if id(c0) not in self._emptied:
            self._emptied[id(c0)] = c0, zeroed_out(c0)
        return self._emptied[id(c0)][1]

    def _reading(self, cond: Cond, model) -> Reading | None:
        """The adapter's LLM's; None for an entry that is for no adapter, or for another one."""
        spec, found = self.use.config.llm, readings_of(cond)
        ours = [reading for reading in found if reading.llm == spec.name]
        if not ours:
            wanted = _llms(model) | {spec.name}
            if found and not wanted & {reading.llm for reading in found}:
                raise LiDiTError(
                    f"this conditioning is what {found[0].llm} reads, and the adapter was trained "
                    f"on {spec.name}; load that LLM in the LLM loader, or another adapter"
                )
            return None
        alike = [r for r in ours if r.reading == reading_of(spec.block, spec.template)]
        if not alike:
            raise LiDiTError(
                f"{spec.name} read this conditioning with another template than the adapter was "
                f"trained with; choose template {spec.template.name!r} in the LLM loader"
            )
        self._check_size(alike[0])
        return alike[0]

    def _check_size(self, reading: Reading) -> None:
        config = self.use.config
        spec, wanted = config.llm, (config.blocks + 1) * config.llm.width
        if reading.states.width != wanted:
            raise LiDiTError(
                f"what {reading.llm} reads is {reading.states.width} wide, and the adapter was "
                f"trained on a {spec.name} with {wanted} ({config.blocks} blocks of {spec.width}); "
                "load that LLM in the LLM loader"
            )
        if reading.used > spec.token_budget:
            self._warn(
                "%d tokens of the prompt are read, and the LLMDiff adapter was trained with at "
                "most %d; set the LLM loader's token budget to that",
                *(reading.used, spec.token_budget),
            )

    def _warn(self, sentence: str, *values) -> None:
        """Once a sampling."""
        if sentence not in self._told:
            self._told.add(sentence)
            log.warning(sentence, *values)


def _llms(model) -> set[str]:
    """The LLMs of all adapters that are applied to the running MODEL."""
    added = getattr(model.current_patcher, "additional_models", {})
    uses = [patchers for key, patchers in added.items() if key.startswith(KEY)]
    return {patcher.model.config.llm.name for patchers in uses for patcher in patchers}
