"""What the refiner nodes do to CONDITIONING: choose, switch, fuse. Nothing is computed here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...lidit_core.errors import LiDiTError
from ...lidit_core.model.prompt_text import BranchText, PromptText
from ...lidit_core.model.refiners import BranchOptions
from ..keys import HostEntry
from ..node_notes import note
from .conditioning import entry_of, text_of


def read_by(entry: HostEntry, branch: int | None, options: BranchOptions) -> HostEntry:
    """One LLM's entry with the branch that reads it and its switches; the weight is kept."""
    text = text_of(*entry)
    if len(text.branches) > 1:
        names = ", ".join(b.llm for b in text.branches)
        raise LiDiTError(
            f"this conditioning already fuses {names}; put LI-DiT Prompt Refiner between "
            "each LLM's prompt and LI-DiT Combine LLMs"
        )
    read = next(iter(text.branches))
    options = replace(options, weight=read.options.weight)
    read = replace(read, branch=branch, options=options)
    return entry_of(replace(text, branches=(read,)), like=entry)


def fused(
    conditionings: Sequence[Sequence[HostEntry]], weights: Sequence[float], fusion: str | None
) -> list[HostEntry]:
    """Entries whose branches are those of all conditionings, entry by entry.

    The first one's area, mask, range and hooks win. Others have one entry, or as many as it has.
    Where no fusion is chosen, what an earlier fusion chose stays.
    """
    first = conditionings[0]
    for n, other in enumerate(conditionings[1:], start=2):
        if len(other) not in (1, len(first)):
            raise LiDiTError(
                f"conditioning {n} has {len(other)} entries and the first has {len(first)}; "
                "expected one, or as many as the first has"
            )
    return [
        _fused_entry([c[i % len(c)] for c in conditionings], weights, fusion)
        for i in range(len(first))
    ]


def _fused_entry(entries: Sequence[HostEntry], weights: Sequence[float], fusion) -> HostEntry:
    branches: list[BranchText] = []
    for entry, weight in zip(entries, weights, strict=False):
        text = text_of(*entry)
        branches += [_weighted(branch, weight) for branch in text.branches]
        fusion = fusion or text.fusion
    _tell_of_weights(branches, fusion)
    return entry_of(PromptText(_same_rows(branches), fusion), like=entries[0])


def _tell_of_weights(branches: Sequence[BranchText], fusion: str | None) -> None:
    """Note weights that do nothing, or another thing than to tell the LLMs apart.

    Of keys the ratio of the weights counts alone. How far the LLMs read each other is lowered by
    the largest weight of the others where that is below 1.
    """
    read = [branch for branch in branches if branch.options.weight]
    weights = [branch.options.weight for branch in read]
    if len(read) == 1 and weights[0] != 1:
        note(
            f"the weight {weights[0]:g} of {read[0].llm} has no effect, for no other "
            "LLM takes part; connect a second one, or give weight 1"
        )
    elif len(read) > 1 and max(weights) < 1 and fusion != "concatenation":
        note(
            f"the largest weight is {max(weights):g}, which also lowers what the LLMs read of each "
            "other where they are fused so; give the LLM that counts most 1"
        )
    elif len(read) > 1 and min(weights) == max(weights) != 1:
        note(f"the weights are all {weights[0]:g}, which is the same as all 1; give one another")


def _weighted(branch: BranchText, weight: float) -> BranchText:
    return replace(branch, options=replace(branch.options, weight=weight * branch.options.weight))


def _same_rows(branches: list[BranchText]) -> tuple[BranchText, ...]:
    """Branches with one row are repeated where another has more."""
    rows = max(len(b.states) for b in branches)
    if any(len(b.states) not in (1, rows) for b in branches):
        counts = ", ".join(f"{b.llm} {len(b.states)}" for b in branches)
        raise LiDiTError(
            f"the LLMs have read different numbers of prompts ({counts}); expected "
            "one each, or the same number"
        )
    return tuple(
        b if len(b.states) == rows else b.with_states(b.states[[0] * rows]) for b in branches
    )
