"""The table of bridges beside the encoder in whose place they write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lidit_core.io.atomic import replacing
from lidit_eval.pairs import PairedDifference, compare
from lidit_eval.report import Judged

from .variants import BridgeVariant

MARKDOWN = "bridging.md"
MEASURE = "nearest"
Drawn = Mapping[str, Sequence[Judged]]  # by list of prompts


@dataclass(frozen=True)
class Compared:
    """A bridge, what its run measured, and its pictures."""

    variant: BridgeVariant
    told: Mapping[str, float]  # on captions that are held out: `cosine`, `r2` and others
    drawn: Drawn


def write_report(native: Drawn, found: Sequence[Compared], about: str, out: Path) -> str:
    """Write bridging.md; the Markdown.

    Args:
        native: drawn with the recorded encoder itself.
        found: the whole bridge first.
        about: how it was made, a sentence without its full stop.
    """
    text = "\n".join(_lines(native, found, about)) + "\n"
    with replacing(out / MARKDOWN) as beside:
        beside.write_text(text, encoding="utf-8")
    return text


def _lines(native: Drawn, found: Sequence[Compared], about: str) -> Iterator[str]:
    yield from ("# Bridges in the place of an LLM", "")
    yield (
        f"{about}. Nearest score; *kept* is the share of the LLM's own, with the 95 % interval of "
        "the difference by the bootstrap over prompts; *less than the bridge* is in pairs too."
    )
    whole = found[0]
    for name, own in native.items():
        score = _mean(own)
        yield from ("", f"**{name}**, {len(own):,} prompts; the LLM itself: {score:.3f}", "")
        yield "| | cosine | R² | nearest | kept | less than the bridge |"
        yield "|---|---|---|---|---|---|"
        for each in found:
            change = _change(each.drawn[name], own)
            cells = (
                f"{each.variant.name}: {each.variant.says}",
                _told(each.told, "cosine"),
                _told(each.told, "r2"),
                f"{change.this:.3f}",
                _kept(change),
                _less(each, whole, name),
            )
            yield f"| {' | '.join(cells)} |"


def _mean(judged: Sequence[Judged]) -> float:
    values = [each.verdict.scores[MEASURE] for each in judged]
    return sum(values) / len(values)


def _change(this: Sequence[Judged], other: Sequence[Judged]) -> PairedDifference:
    """The change over all prompts together."""
    return compare(this, other, [MEASURE])[-1]


def _told(told: Mapping[str, float], name: str) -> str:
    return f"{told[name]:.3f}" if name in told else ""


def _kept(change: PairedDifference) -> str:
    """A share of the other's score, and its interval."""
    if not change.other:
        return ""
    low, high = (1 + side / change.other for side in (change.low, change.high))
    return f"{change.this / change.other:.3f} ({low:.3f} to {high:.3f})"


def _less(each: Compared, whole: Compared, name: str) -> str:
    if each is whole:
        return ""
    change = _change(whole.drawn[name], each.drawn[name])
    return f"{change.difference:+.3f} ({change.low:+.3f} to {change.high:+.3f})"


@dataclass(frozen=True)
class BridgeStage:
    """A stage of a bridge's training, and what it measured."""

    name: str
    says: str
    file: Path
    told: Mapping[str, float]  # beside the recording, on captions that are held out
    figures: Mapping[str, Any]  # of a stage through a U-Net: `before` and `after`


def write_stages(
    found: Mapping[str, Sequence[Judged]], stages: Sequence[BridgeStage], about: str, out: Path
) -> str:
    """Write bridging.md of a checkpoint; the Markdown.

    Args:
        found: pictures by what drew them, the checkpoint alone first.
        about: how it was made, a sentence without its full stop.
    """
    lines = [*_measured(stages, about), *_gains(found)]
    text = "\n".join(lines) + "\n"
    with replacing(out / MARKDOWN) as beside:
        beside.write_text(text, encoding="utf-8")
    return text


def _measured(stages: Sequence[BridgeStage], about: str) -> Iterator[str]:
    yield from ("# A bridge in the place of a checkpoint's text encoder", "", f"{about}.", "")
    for stage in stages:
        if stage.told:
            yield f"- {stage.says}: cosine {stage.told['cosine']:.3f}, R² {stage.told['r2']:.3f}"
        if "after" in stage.figures:
            gaps = (stage.figures[when]["text gap kept"] for when in ("before", "after"))
            before, after = (f"{gap:.3f}" for gap in gaps)
            yield f"- {stage.says}: text gap kept {before} before, {after} after"


def _gains(found: Mapping[str, Sequence[Judged]]) -> Iterator[str]:
    own = next(iter(found.values()))
    yield from (
        "",
        f"| {len(own):,} pictures | strict | nearest | nearest, gained | strict, gained |",
    )
    yield "|---" * 5 + "|"
    for says, judged in found.items():
        strict, nearest = (compare(judged, own, [m])[-1] for m in ("strict", MEASURE))
        gains = (
            ("", "")
            if judged is own
            else (f"{c.difference:+.3f} ({c.low:+.3f} to {c.high:+.3f})" for c in (nearest, strict))
        )
        yield f"| {says} | {strict.this:.3f} | {nearest.this:.3f} | {' | '.join(gains)} |"
