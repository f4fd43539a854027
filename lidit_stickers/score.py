"""Scores generated pictures: `python -m lidit_stickers.score --pictures DIR --prompts evaluation`.

The prompts come from `--write FILE`, one a line, so that the whole measurement is

    python -m lidit_stickers.score --prompts evaluation --write prompts.txt
    python -m lidit_core generate --prompts prompts.txt --out pictures
    python -m lidit_stickers.score --prompts evaluation --pictures pictures
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from lidit_core.errors import LiDiTError, exit_status
from lidit_core.io.atomic import replacing

from .evaluation import (
    attribution_prompts,
    chinese_prompts,
    evaluation_prompts,
    synonym_prompts,
)
from .many_facts import (
    dense_prompts,
    early_prompts,
    late_prompts,
    pair_prompts,
    reversed_pair_prompts,
)
from .newcomer import newcomer_prompts
from .paraphrases import (
    half_prompts,
    long_prompts,
    long_prompts_in_short,
    mixed_prompts,
    paraphrases,
)
from .scenes.grammar import Caption
from .scorer.report import report, sample_grids
from .scorer.scorer import ACCEPT

PROMPTS: dict[str, Callable[[], list[Caption]]] = {
    "evaluation": evaluation_prompts,
    "attribution": attribution_prompts,
    "synonyms": synonym_prompts,
    "chinese": chinese_prompts,
    "newcomer": newcomer_prompts,
    "paraphrases": paraphrases,
    "long": long_prompts,
    "long-in-short": long_prompts_in_short,
    "mixed": mixed_prompts,
    "halves": half_prompts,
    "dense": dense_prompts,
    "early": early_prompts,
    "late": late_prompts,
    "pairs": pair_prompts,
    "pairs-reversed": reversed_pair_prompts,
}


def load_pictures(folder: Path, count: int) -> list[np.ndarray]:
    """00000.png, 00001.png, … as (S, S, 3) uint8.

    Raises:
        LiDiTError: one is missing, not a picture, or not square.
    """
    return [_load(folder / f"{i:05d}.png") for i in range(count)]


def _load(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise LiDiTError(
            f"{path} cannot be read ({error}): expected one PNG per prompt; generate all of them"
        ) from error
    if pixels.shape[0] != pixels.shape[1]:
        raise LiDiTError(f"{path} is {pixels.shape[1]}x{pixels.shape[0]}: expected a square")
    return pixels


def score_folder(folder: Path, captions: list[Caption], out: Path, accept: float = ACCEPT) -> str:
    """The table, also written with hits.png and misses.png into `out`."""
    pictures = load_pictures(folder, len(captions))
    result = report(pictures, captions, accept)
    out.mkdir(parents=True, exist_ok=True)
    table = result.markdown()
    _write(out / "report.md", table.encode())
    for name, sheet in sample_grids(result, pictures).items():
        with replacing(out / f"{name}.png") as beside:
            sheet.save(beside, format="PNG")
    return table


def _write(path: Path, data: bytes) -> None:
    with replacing(path) as beside:
        beside.write_bytes(data)


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose which prompts are scored, and how strictly."""
    parser.add_argument("--prompts", choices=tuple(PROMPTS), default="evaluation")
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="only every Nth prompt (1)"
    )
    parser.add_argument(
        "--nearest",
        action="store_true",
        help="forced choice: name every object after the glyph it resembles most, however little",
    )


def chosen(options: argparse.Namespace, parser: argparse.ArgumentParser) -> list[Caption]:
    """The prompts that `add_choice`'s options name."""
    if options.every < 1:
        parser.error(f"--every is {options.every}; expected 1 or more")
    return PROMPTS[options.prompts]()[:: options.every]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lidit_stickers.score",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pictures", type=Path, help="folder with 00000.png, 00001.png, …")
    parser.add_argument("--out", type=Path, help="folder for the report (default: the pictures')")
    parser.add_argument("--write", type=Path, help="write the prompts into this file, one a line")
    add_choice(parser)
    options = parser.parse_args(arguments)
    if options.pictures is None and options.write is None:
        parser.error("give --pictures DIR to score, or --write FILE to get the prompts")
    captions = chosen(options, parser)
    if options.write is not None:
        _write(options.write, "".join(c.text + "\n" for c in captions).encode())
    if options.pictures is not None:
        out = options.out or options.pictures / ("nearest" if options.nearest else "")
        accept = 0.0 if options.nearest else ACCEPT
        print(score_folder(options.pictures, captions, out, accept), end="")


if __name__ == "__main__":
    sys.exit(exit_status("score", main))
