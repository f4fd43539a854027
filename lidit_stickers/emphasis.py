"""What a weight in the prompt does: "two cats and (a dog:w)" at several weights, scored.

    python -m lidit_stickers.emphasis --model stickers --seeds 60

Every weight is drawn with the same seeds. Of each: how often the scorer finds a dog and a cat, how
much of the picture dogs take (their boxes), and how often the background is a plain one. An object
counts as the glyph that it resembles most.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lidit_core.errors import check, exit_status
from lidit_core.io.atomic import replacing
from lidit_core.pipeline import Order, Pipeline, Settings, load_pipeline

from .scorer.scorer import FoundScene, read

PROMPT = "two cats and (a dog:{weight:g})"
WEIGHTS = (0.0, 0.3, 0.6, 1.0, 1.5, 2.0)
DOG, CAT = "dog", "cat"


@dataclass(frozen=True)
class WeightScore:
    """Shares of the pictures at one weight, and areas as shares of a picture."""

    weight: float
    dog: float  # pictures with a dog
    dog_area: float  # of the dogs' boxes, mean over all pictures
    cat: float  # pictures with a cat
    cats: float  # how many, mean over all pictures
    background: float  # pictures with a plain background


def measure(pipeline: Pipeline, weights: Sequence[float], seeds: int) -> list[WeightScore]:
    """Draw and score; a row a weight."""
    rows = []
    total = len(weights) * seeds
    with tqdm(total=total, unit="picture", disable=None, leave=False) as bar:
        for weight in weights:
            orders = [Order(PROMPT.format(weight=weight), seed) for seed in range(seeds)]
            scenes = []
            for picture in pipeline.pictures(orders, Settings(emphasis=True)):
                scenes.append(read(np.asarray(picture), accept=0))
                bar.update()
            rows.append(summed(weight, scenes))
    return rows


def summed(weight: float, scenes: Sequence[FoundScene]) -> WeightScore:
    """The row of a weight."""

    def mean(numbers) -> float:
        return float(np.mean(list(numbers)))

    return WeightScore(
        weight,
        dog=mean(_count(scene, DOG) > 0 for scene in scenes),
        dog_area=mean(_area(scene, DOG) for scene in scenes),
        cat=mean(_count(scene, CAT) > 0 for scene in scenes),
        cats=mean(_count(scene, CAT) for scene in scenes),
        background=mean(scene.background is not None for scene in scenes),
    )


def _count(scene: FoundScene, kind: str) -> int:
    return sum(found.kind == kind for found in scene.objects)


def _area(scene: FoundScene, kind: str) -> float:
    boxes = [found.box for found in scene.objects if found.kind == kind]
    return sum((right - left) * (bottom - top) for left, top, right, bottom in boxes)


def table(rows: Sequence[WeightScore]) -> str:
    """The rows as a table in Markdown."""
    names = ("w", "a dog", "its area", "a cat", "cats", "plain background")
    cells = [names, ["---"] * len(names)]
    for row in rows:
        numbers = (row.dog, row.dog_area, row.cat, row.cats, row.background)
        cells.append([f"{row.weight:g}", *(f"{number:.3f}" for number in numbers)])
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    summary = "What a weight in the prompt does."
    parser = argparse.ArgumentParser("lidit_stickers.emphasis", description=summary)
    add = parser.add_argument
    add("--model", default="stickers", help="a name or a checkpoint (stickers)")
    add("--llm", action="append", default=[], metavar="[NAME=]LLM", help="as for lidit generate")
    add("--seeds", type=int, default=60, metavar="N", help="pictures of every weight (60)")
    add("--weights", type=float, nargs="+", default=WEIGHTS, metavar="W", help="(0 … 2)")
    add("--device", metavar="NAME", help="(a GPU, else cpu)")
    add("--out", type=Path, metavar="FILE", help="write the rows as JSON too")
    args = parser.parse_args(arguments)
    check(args.seeds >= 1, f"--seeds is {args.seeds}; expected 1 or more")
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    pipeline = load_pipeline(args.model, args.llm, device=args.device)
    rows = measure(pipeline, args.weights, args.seeds)
    print(table(rows))
    if args.out:
        measured = {"model": args.model, "prompt": PROMPT, "seeds": args.seeds}
        text = json.dumps({**measured, "rows": [asdict(row) for row in rows]}, indent=1)
        with replacing(args.out) as beside:
            beside.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status("emphasis", main))
