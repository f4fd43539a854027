"""Opens the judge of an evaluation by the name that users give."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from lidit_core.errors import LiDiTError

from ..benchmarks.item import PromptItem
from ..items import READERS, STICKERS
from .detector import DetectorJudge
from .judge import Judge, NoJudge
from .likeness import LikenessJudge, QualityJudge
from .vqa import VQAJudge


def default_judge(prompts: str) -> str:
    """The judge of a list of prompts, where none is named."""
    return "none" if prompts.partition(":")[0] in READERS else "stickers"


def open_judge(name: str, items: Sequence[PromptItem], device: str) -> Judge:
    """Open a judge by its name.

    Args:
        name: ``stickers``, ``none``, ``detector:MODEL``, ``vqa:MODEL``, ``likeness:MODEL`` or
            ``quality:MODEL``, MODEL being a folder or ``hub:owner/name``; a detector names
            colours by ``detector:MODEL,CLIP``.
        items: what it is to judge.
    Raises:
        LiDiTError: there is no such judge, or it cannot judge these items.
    """
    kind, _, source = name.partition(":")
    if kind == "none":
        return NoJudge()
    if kind == "stickers":
        return importlib.import_module(STICKERS).StickerJudge(items)
    if kind == "detector" and source:
        return DetectorJudge(source, items, device)
    if kind == "vqa" and source:
        return VQAJudge(source, items, device)
    if kind == "likeness" and source:
        return LikenessJudge(source, device)
    if kind == "quality" and source:
        return QualityJudge(source, device)
    raise LiDiTError(
        f"there is no judge {name!r}; expected stickers, none, detector:MODEL, vqa:MODEL, "
        "likeness:MODEL or quality:MODEL"
    )
