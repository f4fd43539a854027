"""DPG-Bench (Hu et al. 2024, ELLA, arXiv 2403.05135): its prompts, and pictures as it reads them.

Its folder `prompts` holds a text file for each item, and `dpg_bench.csv` beside it the questions
on each: ``item_id``, ``proposition_id``, ``dependency`` (numbers of the questions that must hold
first, 0 = none) and ``question_natural_language``. Its evaluator reads one picture an item, named
``ITEM.png``: four samples in a square of two by two.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lidit_core.errors import LiDiTError, check
from lidit_core.io.atomic import replacing

from .item import PromptItem

TABLE = "dpg_bench.csv"
ASIDE = 2  # samples along a side of the evaluator's picture


@dataclass(frozen=True)
class Question:
    """One fact of a prompt."""

    text: str
    needs: tuple[int, ...]  # numbers of the questions without which it cannot hold


def read(folder: Path) -> list[PromptItem]:
    """The prompts of its folder, with the questions of the table in or beside it.

    Raises:
        LiDiTError: there are no prompts, or the table is none of DPG-Bench's.
    """
    files = sorted(folder.glob("*.txt"))
    check(bool(files), f"{folder} holds no .txt file; expected DPG-Bench's folder of prompts")
    table = next((p / TABLE for p in (folder, folder.parent) if (p / TABLE).is_file()), None)
    asked = read_questions(table) if table else {}
    try:
        texts = [file.read_text(encoding="utf-8").strip() for file in files]
    except (OSError, UnicodeDecodeError) as error:
        raise LiDiTError(
            f"a prompt of {folder} cannot be read ({error}); expected UTF-8"
        ) from error
    return [
        PromptItem(text, "dense", asked.get(file.stem), file.stem)
        for file, text in zip(files, texts, strict=True)
    ]


def read_questions(table: Path) -> dict[str, dict[int, Question]]:
    """The questions of each item, by their numbers."""
    found: dict[str, dict[int, Question]] = {}
    try:
        with open(table, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                needs = (int(number) for number in row["dependency"].split(","))
                question = Question(row["question_natural_language"], tuple(n for n in needs if n))
                found.setdefault(row["item_id"], {})[int(row["proposition_id"])] = question
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise LiDiTError(
            f"{table} cannot be read ({error}); expected DPG-Bench's columns item_id, "
            "proposition_id, dependency and question_natural_language"
        ) from error
    return found


def write(folder: Path, item: PromptItem, pictures: Sequence[Path]) -> None:
    """Lay an item's samples out as one picture; fewer than four leave the rest of it black."""
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    samples = [Image.open(path).convert("RGB") for path in pictures[: ASIDE**2]]
    side = 1 if len(samples) == 1 else ASIDE
    width, height = samples[0].size
    sheet = Image.new("RGB", (side * width, side * height))
    for number, sample in enumerate(samples):
        sheet.paste(sample, (number % side * width, number // side * height))
    with replacing(folder / "samples" / f"{item.key}.png") as beside:
        sheet.save(beside, format="PNG")
