"""One prompt read in every combination of instruction, refiner and fusion: a list for a grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from ...lidit_core.errors import LiDiTError, shown
from ...lidit_core.model.refiners import BranchOptions
from ..keys import HostEntry
from ..lidit.fusion import fused, read_by
from .clip import encode_prompt
from .files import template_file, template_named

REFINERS = {
    "as trained": BranchOptions(),
    "full attention": BranchOptions(full_attention=True),
    "causal attention": BranchOptions(full_attention=False),
    "without gates": BranchOptions(gated=False),
    "strength 0": BranchOptions(strength=0.0),
}
FUSIONS = {  # the LLMs' weights, and how they are fused
    "collaborative refiner": ((1.0, 1.0), "refiner"),
    "concatenation": ((1.0, 1.0), "concatenation"),
    "LLM 1 alone": ((1.0, 0.0), None),
    "LLM 2 alone": ((0.0, 1.0), None),
}
Conditioning = list[HostEntry]


def lines_of(text: str, axis: str, choices: Mapping[str, Any] = {}) -> list[str]:
    """The values of one axis, one a line; of the choices, where there are any.

    Raises:
        LiDiTError: no line, or one that is none of the choices.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise LiDiTError(f"{axis} is empty; write at least one value, each on a line of its own")
    for line in lines if choices else ():
        if line not in choices:
            raise LiDiTError(f"{axis} has {shown(line)}; expected {', '.join(choices)}, one a line")
    return lines


def templates_fingerprint(instructions: str | None) -> str:
    """A value that changes when the files do that the lines of the axis name."""
    told = []
    for line in (instructions or "").splitlines():
        try:
            file = template_file(line.strip()) if line.strip() else None
            told.append(str(file and file.stat().st_mtime_ns))
        except (LiDiTError, OSError) as error:  # the run says so
            told.append(type(error).__name__)
    return " ".join(told)


def readings(
    clips: list[Any],
    text: str,
    instructions: list[str],
    refiners: list[str],
    fusions: list[str],
    emphasis: bool = False,
) -> Iterator[tuple[str, Conditioning]]:
    """Each combination's label, of three lines, and the prompt read that way.

    Args:
        emphasis: whether the prompt is read for weights, as in (word:1.3).

    Raises:
        LiDiTError: a fusion needs a second LLM and there is one only.
    """
    if len(clips) == 1 and set(fusions) != {"LLM 1 alone"}:
        raise LiDiTError(
            f"fusions has {shown(', '.join(fusions))} and one LLM is connected; connect clip_2, or "
            "write LLM 1 alone"
        )
    for instruction in instructions:
        template = template_named(instruction)
        read = [encode_prompt(clip, text, template, emphasis)[0] for clip in clips]
        for refiner, fusion in product(refiners, fusions):
            label = f"instruction: {instruction}\nrefiner: {refiner}\nfusion: {fusion}"
            yield label, _combined(read, REFINERS[refiner], fusion)


def _combined(read: list[Conditioning], options: BranchOptions, fusion: str) -> Conditioning:
    weights, how = FUSIONS[fusion]
    kept = [(c, w) for c, w in zip(read, weights, strict=False) if w]
    switched = [[read_by(entry, None, options) for entry in c] for c, _ in kept]
    return fused(switched, [w for _, w in kept], how) if len(kept) > 1 else switched[0]
