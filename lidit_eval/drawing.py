"""The pictures of an evaluation that are not there yet, drawn with their fixed seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from lidit_core.errors import LiDiTError
from lidit_core.io.pictures import save_picture
from lidit_core.pipeline import BATCH, Order, Pipeline, Settings

from .items import DrawingTask

FOLDER = "pictures"


class Drawer(Protocol):
    """Draws prompts with seeds; the same ones in the same groups give the same pictures."""

    def draw(self, tasks: Sequence[DrawingTask]) -> Iterator[Tensor]:
        """Draw (H, W, 3) uint8 of each task, in their order."""
        ...


class LiDiTDrawer:
    """Draws with a LI-DiT; see `Pipeline.pictures`."""

    def __init__(self, pipeline: Pipeline, settings: Settings) -> None:
        self.pipeline, self.settings = pipeline, settings

    def draw(self, tasks: Sequence[DrawingTask]) -> Iterator[Tensor]:
        orders = [Order(task.item.prompt, task.seed) for task in tasks]
        return self.pipeline.pictures(orders, self.settings)


def draw_missing(
    drawer: Drawer,
    tasks: Sequence[DrawingTask],
    folder: Path,
    count: int,
    shared: Mapping[str, Any],
    on_picture: Callable[[int], Any] = lambda pictures: None,
) -> None:
    """Draw what the folder lacks, in groups that do not depend on what is there.

    Args:
        count: pictures of each item.
        shared: settings that every PNG carries beside its prompt and seed.
        on_picture: is told of how many more pictures are there.
    """
    for first in range(0, len(tasks), BATCH):
        group = tasks[first : first + BATCH]
        paths = [folder / task.name(count) for task in group]
        if not all(path.exists() for path in paths):
            for task, path, pixels in zip(group, paths, drawer.draw(group), strict=True):
                if not path.exists():
                    own = {"prompt": task.item.prompt, "seed": task.seed}
                    save_picture(path, pixels, {**own, **shared})
        on_picture(len(group))


def load_picture(path: Path) -> np.ndarray:
    """A picture (H, W, 3) uint8 from any file that Pillow reads.

    Raises:
        LiDiTError: it is missing, or none.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise LiDiTError(
            f"the picture {path} cannot be read ({error}); expected one for every prompt: draw all "
            "of them, or delete this file and start the same command again"
        ) from error
