"""The stickers as `lidit eval` takes them: lists of prompts, and the scorer as a judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lidit_core.errors import check
from lidit_eval.benchmarks.item import PromptItem
from lidit_eval.judges.judge import Judge, Verdict

from .scenes.grammar import Caption
from .score import PROMPTS
from .scorer.edges import edges_kept
from .scorer.facts import facts
from .scorer.report import candidates
from .scorer.scorer import ACCEPT, describe, judge, read


def _items(captions: Callable[[], list[Caption]]) -> Callable[[], list[PromptItem]]:
    return lambda: [PromptItem(c.text, c.category, c, repr(c.request)) for c in captions()]


LISTS: Mapping[str, Callable[[], list[PromptItem]]] = {n: _items(c) for n, c in PROMPTS.items()}


class StickerJudge(Judge):
    """The scorer: strict, as a forced choice of the nearest glyph, and how sharp the picture is.

    Raises:
        LiDiTError: the items are not the stickers'.
    """

    name = "stickers"
    measures = ("strict", "nearest", "facts, strict", "facts, nearest", "strong edges")
    tells = "strict"
    edition = "2"  # raised when a rule changes; the first took colours and facts for granted

    def __init__(self, items: Sequence[PromptItem]) -> None:
        self.kinds = candidates([_caption(item) for item in items])

    def check_size(self, width: int, height: int) -> None:
        """Refuse what is no square."""
        check(
            height == width,
            f"pictures of {width}x{height} are no stickers, which are square; expected a square "
            "size, or another judge",
        )

    def judge(self, picture: np.ndarray, item: PromptItem) -> Verdict:
        """Judge a square picture (S, S, 3) uint8."""
        height, width = picture.shape[:2]
        self.check_size(width, height)
        caption = _caption(item)
        strict, nearest = (read(picture, accept, self.kinds) for accept in (ACCEPT, 0.0))
        scores = {}
        for name, scene in (("strict", strict), ("nearest", nearest)):
            held = facts(scene, caption.request).values()
            scores[name] = float(judge(scene, caption.request).category(caption.category))
            scores[f"facts, {name}"] = sum(held) / len(held)
        edges = edges_kept(picture, nearest)
        scores |= {} if edges is None else {"strong edges": edges}
        return Verdict({m: scores[m] for m in self.measures if m in scores}, describe(strict))


def _caption(item: PromptItem) -> Caption:
    check(
        isinstance(item.asked, Caption),
        f"the prompt {item.prompt!r} is none of the stickers' lists; name another judge with "
        "--judge",
    )
    assert isinstance(item.asked, Caption)
    return item.asked
