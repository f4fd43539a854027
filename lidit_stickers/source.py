"""Scenes of stickers as a source of the trainer: drawn when they are asked for, at any size."""

from __future__ import annotations

from functools import cached_property, lru_cache

import numpy as np
from PIL import Image

from lidit_train.data.sources import LeftOut
from lidit_train.recipe import Source

from .scenes.grammar import Caption, captions
from .scenes.scenes import Scene, content, place, render

VERSION = 1  # raise it when the same scene comes to look otherwise
SEEDS = {
    "en": 1,
    "zh": 2,
    "mixed": 3,
}  # of the training captions; evaluation prompts are held out from all


@lru_cache(maxsize=4)
def training_captions(language: str, distinct: int) -> tuple[Caption, ...]:
    """The fixed list that gives a scene its caption."""
    return tuple(captions(distinct, seed=SEEDS[language], language=language))


class StickerSource:
    """A source of ``count`` scenes, captioned in turn by the language's first ``distinct``."""

    def __init__(self, source: Source) -> None:
        self.language, self.distinct = source.path, source.distinct
        self.sizes = np.zeros((source.count, 2), np.int32)  # drawn at the size that is asked for
        self.left_out, self.masked = LeftOut(), False

    def key(self, index: int) -> str:
        return f"sticker scene {VERSION} {index} {self.caption(index).text}"

    def captions(self, index: int) -> list[tuple[str, float]]:
        return [(self.caption(index).text, 1.0)]

    def picture(self, index: int, size: tuple[int, int]) -> Image.Image:
        """The scene at its bucket's size, which is a square."""
        return Image.fromarray(render(self._scene(index), size[0]))

    def mask(self, index: int) -> None:
        return None

    def content_key(self, index: int) -> str:
        return self.key(index)  # a drawn scene has no file

    def name(self, index: int) -> str:
        return f"scene {index}"

    def content(self, index: int, rows: int, columns: int) -> np.ndarray:
        return content(self._scene(index), rows)

    def _scene(self, index: int) -> Scene:
        return place(self.caption(index).request, np.random.default_rng([VERSION, index]))

    def caption(self, index: int) -> Caption:
        """The caption of a scene, with what it asks for."""
        return self._known[index % self.distinct]

    @cached_property
    def _known(self) -> tuple[Caption, ...]:
        return training_captions(self.language, self.distinct)
