"""T2I-CompBench (Huang et al. 2023, arXiv 2307.06350): its prompts, and pictures as it reads them.

Its files `color_val.txt`, `shape_val.txt` and so on hold a prompt a line. Its evaluators read
``samples/PROMPT_000000.png``, whose number counts on over all pictures.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from lidit_core.errors import LiDiTError

from .item import PromptItem


def read(path: Path) -> list[PromptItem]:
    """The prompts of one of its files, whose name is the category."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LiDiTError(
            f"{path} cannot be read as T2I-CompBench's prompts ({error}); expected a file as its "
            "color_val.txt, a prompt a line"
        ) from error
    category = path.stem.removesuffix("_val").removesuffix("_train").replace("_", " ")
    return [PromptItem(line.strip(), category) for line in lines if line.strip()]


def write(folder: Path, number: int, item: PromptItem, picture: Path) -> None:
    """Copy a picture into T2I-CompBench's layout.

    Args:
        number: of the picture among all.
    """
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    name = item.prompt.replace("/", " ")
    shutil.copyfile(picture, folder / "samples" / f"{name}_{number:06d}.png")
