"""What an adapter does with the host's conditions before each call of the model.

Its tokens, and in mode ``replace`` φ(c) and the pooled map, go into the conditions and through the
host's own batching; so areas, masks, ranges, CFG and ControlNets see them as any other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from comfy.conds import CONDCrossAttn, CONDRegular
from torch import Tensor

from ...lidit_core.errors import LiDiTError
from ..keys import HIDDEN
from ..keys import LLMDIFF as STATES
from .conditioning import CLIP_TOKENS, KEPT, MARK, OWN, has_own_text
from .conds import AddedText, CONDAdded
from .sampling_texts import Cond, SamplingTexts, StepText, Use


class Conditions:
    """The host's conditions with an adapter's text in them."""

    def __init__(self, use: Use) -> None:
        self.use = use
        self.readings = SamplingTexts(use)

    def sampling(self, executor, *args, **options):
        """Wrap a whole sampling (WrappersMP.OUTER_SAMPLE)."""
        self.readings = SamplingTexts(self.use)
        guider = executor.class_obj
        self._check_positive(getattr(guider, "conds", {}).get("positive", ()), guider)
        try:
            return executor(*args, **options)
        finally:
            self.readings = SamplingTexts(self.use)

    def step(self, executor, model, conds, x: Tensor, sigma: Tensor, options: dict):
        """Wrap all calls of a step (WrappersMP.CALC_COND_BATCH)."""
        lists = [[self._checked(cond, model) for cond in given or ()] for given in conds]
        if self._active(model, sigma):
            lists = self._with_text(lists, model, x, sigma)
        changed = [None if given is None else new for given, new in zip(conds, lists)]
        return executor(model, changed, x, sigma, options)

    def _check_positive(self, entries: Sequence[Cond], guider) -> None:
        """Tell where no positive prompt holds text of its LLM, so that the adapter has no say."""
        if self.use.strength == 0 or not entries:
            return
        if self.readings.has_text(entries, getattr(guider, "model_patcher", None)):
            return self._tell_no_own_text(entries)
        told = (
            f"the positive prompt holds nothing that {self.use.config.llm.name} reads, so the "
            "LLMDiff adapter does nothing for it; encode it with LLMDiff Encode"
        )
        if self.use.replaces and not any(STATES in entry for entry in entries):
            raise LiDiTError(told)
        self.readings.note(told)  # where another adapter reads it, that one gives the text

    def _tell_no_own_text(self, entries: Sequence[Cond]) -> None:
        """Tell of a prompt without text of the checkpoint's own where that is read too."""
        whole = (self.use.start, self.use.end) == (0, 1)
        if self.use.replaces and whole:
            return
        if any(STATES in entry and not has_own_text(entry) for entry in entries):
            self.readings.note(
                "the checkpoint's own text is all zeros here, beside which no adapter was trained: "
                "connect its CLIP Text Encode to LLMDiff Encode, or let the LLM's be the only text "
                "from 0 to 1 with mode replace"
            )

    def _active(self, model, sigma: Tensor) -> bool:
        use = self.use
        if use.strength == 0:
            return False
        if (use.start, use.end) == (0, 1):
            return True
        first, last = (model.model_sampling.percent_to_sigma(p) for p in (use.start, use.end))
        return first >= float(sigma[0]) >= last

    def _checked(self, cond: Cond, model) -> Cond:
        """The entry with the checkpoint's own text as it was before the LLM's was joined.

        Where it has none, zeros are as wide as the model's text.
        """
        if STATES not in cond:
            if HIDDEN in cond:
                raise LiDiTError(
                    "this conditioning is for a LI-DiT, and the model is a U-Net with an LLMDiff "
                    "adapter; connect LLMDiff Encode, or the checkpoint's own CLIP Text Encode"
                )
            return cond
        values, width = dict(cond["model_conds"]), self.use.config.context_width
        values.pop(STATES, None)  # it would complain that there is no adapter
        cond = {**cond, "model_conds": values}
        given = values.get("c_crossattn")
        if given is None:
            return cond
        if given.cond.shape[-1] == width or bool(given.cond.any()):
            if MARK in cond and self.readings.own_text(cond) == KEPT:
                values["c_crossattn"] = given._copy_with(cond[OWN].to(given.cond))
            return cond
        zeros = given.cond.new_zeros(len(given.cond), CLIP_TOKENS, width)
        return {**cond, "model_conds": {**values, "c_crossattn": CONDCrossAttn(zeros)}}

    def _with_text(self, lists: list[list[Cond]], model, x: Tensor, sigma: Tensor):
        texts = [[self.readings.text(cond, model, x, sigma) for cond in given] for given in lists]
        known = next((text for given in texts for text in given if text), None)
        if known is None:
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
