"""The longest prompt that each LLM has read in training, which the trained file records.

A prompt beyond it may break the picture, so whoever draws with the file is told.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from accelerate import Accelerator

from lidit_core.text.spec import LLMSpec

log = logging.getLogger(__name__)

UNREAD = -1  # stands for an LLM that no step has read


class LongestPrompts:
    """Counts over a run; one that goes on from a checkpoint keeps what was counted before.

    Args:
        names: of the LLMs, by branch.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        # by LLM; None = not known, as the run goes on from a checkpoint that did not count
        self.tokens: dict[str, int] | None = {}

    def see(self, used: Mapping[int, Sequence[int]]) -> None:
        """Count the captions of a batch.

        Args:
            used: by branch, how many tokens of each caption the LLM read.
        """
        if self.tokens is None:
            return
        for branch, counts in used.items():
            name = self.names[branch]
            self.tokens[name] = max((self.tokens.get(name, 0), *counts))

    def take_up(self, tokens: dict[str, int] | None) -> None:
        """Go on from what a checkpoint had counted; None = it did not count."""
        self.tokens = tokens
        if tokens is None:
            log.warning(
                "the checkpoint does not say how long the captions were that it was trained on, so "
                "the file that this run ends in will not tell of prompts that are longer"
            )

    def gather(self, accelerator: Accelerator) -> dict[str, int] | None:
        """The longest of all processes, each of which must call; from then on all know it."""
        if self.tokens is None:
            return None
        mine = [self.tokens.get(name, UNREAD) for name in self.names]
        ours = torch.tensor([mine], device=accelerator.device)
        every = cast(torch.Tensor, accelerator.gather(ours))
        longest = zip(self.names, every.amax(0).tolist())
        self.tokens = {name: count for name, count in longest if count != UNREAD}
        return self.tokens


def recorded(
    llms: Sequence[LLMSpec],
    longest: Mapping[str, int] | None,
    learnt: Collection[int] | None = None,
    fingerprints: Mapping[int, str] | None = None,
) -> tuple[LLMSpec, ...]:
    """The LLMs as a trained file records them: the longest prompt of this run and before it.

    Args:
        longest: by LLM; None = not known.
        fingerprints: of the LLMs that read captions, by branch.
        learnt: branches that were trained, the others keep their record; None = all.
    """
    learnt = range(len(llms)) if learnt is None else learnt
    known = fingerprints or {}
    return tuple(
        replace(_recorded(spec, longest), fingerprint=known.get(i) or spec.fingerprint)
        if i in learnt
        else spec
        for i, spec in enumerate(llms)
    )


def _recorded(spec: LLMSpec, longest: Mapping[str, int] | None) -> LLMSpec:
    """The spec with the longest prompt known; None where either part is unknown."""
    if longest is None or spec.longest_prompt is None:
        return replace(spec, longest_prompt=None)
    return replace(spec, longest_prompt=max(spec.longest_prompt, longest.get(spec.name, 0)))
