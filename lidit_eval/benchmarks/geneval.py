"""GenEval (Ghosh et al. 2023, arXiv 2310.11513): its prompts, and pictures as it reads them.

Its `evaluation_metadata.jsonl` has a line for each prompt: ``tag``, ``prompt``, ``include`` and
``exclude``, both lists of {class, count, color, position}. Its evaluator reads
``00000/metadata.jsonl`` and ``00000/samples/0000.png`` of each.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from lidit_core.errors import LiDiTError
from lidit_core.io.atomic import replacing

from .item import PromptItem


def read(path: Path) -> list[PromptItem]:
    """The prompts of an evaluation_metadata.jsonl."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [_item(json.loads(line)) for line in lines if line.strip()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LiDiTError(
            f"{path} cannot be read as GenEval's prompts ({error}); expected its "
            "evaluation_metadata.jsonl: a line each with tag, prompt, and include, a list of "
            "classes and their counts"
        ) from error


def _item(line: dict[str, Any]) -> PromptItem:
    if not isinstance(line["include"], list):
        raise TypeError("include is no list")
    for wish in (*line["include"], *line.get("exclude", ())):
        if not (isinstance(wish["class"], str) and isinstance(wish["count"], int)):
            raise TypeError(f"{wish} is no class with its count")
    return PromptItem(str(line["prompt"]), str(line["tag"]).replace("_", " "), line)


def write(folder: Path, index: int, copy: int, item: PromptItem, picture: Path) -> None:
    """Copy a picture into GenEval's layout."""
    own = folder / f"{index:05d}"
    (own / "samples").mkdir(parents=True, exist_ok=True)
    with replacing(own / "metadata.jsonl") as beside:
        beside.write_text(json.dumps(item.asked) + "\n", encoding="utf-8")
    shutil.copyfile(picture, own / "samples" / f"{copy:04d}.png")
