"""Scores per category with intervals, and grids of hits and misses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from lidit_core.errors import LiDiTError
from lidit_eval.grids import grid
from lidit_eval.statistics import wilson

from ..scenes.grammar import Caption
from ..scenes.kinds import KINDS, KNOWN_KINDS
from .scorer import ACCEPT, FoundScene, SceneVerdict, describe, judge, read


@dataclass(frozen=True)
class CategoryScore:
    """One category: what it tests, and whether the whole prompt was met, background included."""

    category: str
    n: int
    hits: int
    whole: int

    @property
    def score(self) -> float:
        """Share of hits."""
        return self.hits / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the score."""
        return wilson(self.hits, self.n)


@dataclass(frozen=True)
class Report:
    """What a set of pictures scores, with one scene and verdict per picture."""

    rows: tuple[CategoryScore, ...]  # one per category, in the order of the captions
    captions: tuple[Caption, ...]
    scenes: tuple[FoundScene, ...]
    verdicts: tuple[SceneVerdict, ...]

    @property
    def scores(self) -> dict[str, float]:
        """The share of hits by category."""
        return {row.category: row.score for row in self.rows}

    def hits(self) -> list[bool]:
        """Whether each picture meets its category's test."""
        pairs = zip(self.verdicts, self.captions, strict=True)
        return [verdict.category(caption.category) for verdict, caption in pairs]

    @property
    def overall(self) -> CategoryScore:
        """The score of all categories together."""
        sums = (sum(getattr(row, name) for row in self.rows) for name in ("n", "hits", "whole"))
        return CategoryScore("all", *sums)

    def markdown(self) -> str:
        """The table of docs/results.md, and a last row over several categories."""
        head = (
            "| category | prompts | score | 95 % interval | whole prompt |\n|---|---|---|---|---|"
        )
        lines = [
            f"| {r.category} | {r.n} | {r.score:.3f} | {r.interval[0]:.3f} to {r.interval[1]:.3f} "
            f"| {r.whole / r.n:.3f} |"
            for r in (*self.rows, *((self.overall,) if len(self.rows) > 1 else ()))
        ]
        return "\n".join([head, *lines]) + "\n"


def report(
    pictures: Sequence[np.ndarray], captions: Sequence[Caption], accept: float = ACCEPT
) -> Report:
    """Reads and judges every picture.

    Args:
        pictures: (S, S, 3) uint8 each, in the order of the captions.
        accept: see `scorer.read`.
    """
    if len(pictures) != len(captions):
        raise LiDiTError(
            f"{len(pictures)} pictures for {len(captions)} captions: expected one each; "
            "generate the missing ones or leave out captions"
        )
    kinds = candidates(captions)
    scenes = tuple(read(picture, accept, kinds) for picture in pictures)
    verdicts = tuple(judge(r, c.request) for r, c in zip(scenes, captions, strict=True))
    return Report(_rows(captions, verdicts), tuple(captions), scenes, verdicts)


def candidates(captions: Sequence[Caption]) -> tuple[str, ...]:
    """What an object may be: the data set's kinds, and a newcomer if any of the captions asks."""
    asked = {kind for caption in captions for kind in caption.request.kinds}
    return tuple(kind for kind in KNOWN_KINDS if kind in KINDS or kind in asked)


def _rows(
    captions: Sequence[Caption], verdicts: Sequence[SceneVerdict]
) -> tuple[CategoryScore, ...]:
    groups: dict[str, list[tuple[bool, bool]]] = {}
    for caption, verdict in zip(captions, verdicts, strict=True):
        group = groups.setdefault(caption.category, [])
        group.append((verdict.category(caption.category), verdict.all))
    return tuple(
        CategoryScore(
            name, len(group), sum(hit for hit, _ in group), sum(whole for _, whole in group)
        )
        for name, group in groups.items()
    )


def sample_grids(
    result: Report, pictures: Sequence[np.ndarray], limit: int = 64
) -> dict[str, Image.Image]:
    """A grid "hits" and one "misses", each of up to `limit` pictures spread over the categories."""
    grids = {}
    for name, wanted in (("hits", True), ("misses", False)):
        chosen = [i for i, hit in enumerate(result.hits()) if hit is wanted]
        step = max(1, -(-len(chosen) // limit))
        chosen = chosen[::step]
        labels = [f"{_title(result.captions[i])}\n> {describe(result.scenes[i])}" for i in chosen]
        grids[name] = grid([pictures[i] for i in chosen], labels)
    return {name: sheet for name, sheet in grids.items() if sheet.height}


def _title(caption: Caption) -> str:
    """The text, or, where the built-in font lacks its letters, the request in short."""
    if caption.text.isascii():
        return caption.text
    items = (f"{i.count} {i.colour or ''} {i.kind}" for i in caption.request.items)
    asked = f"{', '.join(items)} {caption.request.relation or ''} {caption.request.background}"
    return f"[{caption.language}] {asked}"
