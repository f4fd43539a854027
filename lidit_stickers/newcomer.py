"""An object that the shipped weights have never seen, a traffic light, for a fine-tune to teach.

    python -m lidit_stickers.newcomer --write FOLDER
    lidit eval --prompts newcomer --write prompts.txt

The first writes 20 captioned pictures to train on, the second 60 prompts to measure with. Every
prompt holds a combination that `heldout` keeps out of the 20: a background, a partner, a number.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from random import Random

from PIL import Image

from lidit_core.errors import exit_status
from lidit_core.io.atomic import replacing

from .evaluation import worded
from .scenes.grammar import Caption
from .scenes.heldout import allowed_backgrounds, background_held_out, count_held_out, pair_held_out
from .scenes.kinds import BACKGROUNDS, KINDS, NEWCOMER
from .scenes.request import RELATIONS, Item, SceneRequest
from .scorer.selftest import drawn

NEWCOMER_KEY = NEWCOMER.key
LONE_SIZES = (None, None, None, None, "small", "small", "big", "big")  # one picture each
PER_CATEGORY = 15
SEEDS = {"training": "newcomer training 1", "prompts": "newcomer prompts 1"}
SCENE_SEED = 1  # spreads the backgrounds that captions leave open


def training_captions() -> list[Caption]:
    """The 20 captions: 8 of one, 4 of several, 4 of one beside another kind, one per relation."""
    rng = Random(SEEDS["training"])
    requests = _training_requests(rng)
    return list(worded("training", requests, len(requests), rng, set()))


def _training_requests(rng: Random) -> list[SceneRequest]:
    numbers = [n for n in (2, 3, 4) if not count_held_out(NEWCOMER_KEY, n)]
    partners = [kind for kind in KINDS if not pair_held_out(NEWCOMER_KEY, kind)]
    scenes = [(Item(NEWCOMER_KEY, size=size),) for size in LONE_SIZES]
    scenes += [(Item(NEWCOMER_KEY, count=n),) for n in 2 * numbers]
    scenes += [_pair(kind, rng) for kind in rng.sample(partners, 2 * len(RELATIONS))]
    relations = [*[None] * (len(scenes) - len(RELATIONS)), *RELATIONS]
    return [
        SceneRequest(items, relation, _background(items, i))
        for i, (items, relation) in enumerate(zip(scenes, relations, strict=True))
    ]


def _pair(partner: str, rng: Random) -> tuple[Item, Item]:
    """The newcomer and a partner in random order."""
    first, second = rng.sample((Item(NEWCOMER_KEY), Item(partner)), 2)
    return first, second


def _background(items: tuple[Item, ...], index: int) -> str | None:
    """The allowed backgrounds in turn; one caption in five leaves it open."""
    allowed = allowed_backgrounds(tuple(item.kind for item in items))
    return None if index % 5 == 4 else allowed[index % len(allowed)]


def newcomer_prompts() -> list[Caption]:
    """The 60 held-out prompts, 15 of each of four categories; the list never changes."""
    rng, taken, prompts = Random(SEEDS["prompts"]), set(), []
    for category, requests in _held_out_requests(rng).items():
        prompts += worded(category, requests, PER_CATEGORY, rng, taken)
    return prompts


def _held_out_requests(rng: Random) -> dict[str, list[SceneRequest]]:
    """Each category's requests that the rule keeps out of training, before the wording."""
    anywhere = (None, *BACKGROUNDS)
    places = [name for name in BACKGROUNDS if background_held_out(NEWCOMER_KEY, name)]
    partners = [kind for kind in KINDS if pair_held_out(NEWCOMER_KEY, kind)]
    numbers = [(n, on) for n in (2, 3, 4) for on in anywhere]
    several = [(n, on) for n, on in numbers if count_held_out(NEWCOMER_KEY, n) or on in places]
    return {
        "single object": [SceneRequest((Item(NEWCOMER_KEY),), None, on) for on in places],
        "two objects": [
            SceneRequest(_pair(kind, rng), None, rng.choice(anywhere)) for kind in partners
        ],
        "position": [
            SceneRequest(_pair(kind, rng), RELATIONS[i % 4], rng.choice(anywhere))
            for i, kind in enumerate(partners)
        ],
        "counting": [SceneRequest((Item(NEWCOMER_KEY, count=n),), None, on) for n, on in several],
    }


def write(folder: Path, size: int = 128) -> None:
    """00.png, 00.txt, … with the training pictures, `size` pixels wide and high."""
    folder.mkdir(parents=True, exist_ok=True)
    captions = training_captions()
    pictures = drawn(captions, size, SCENE_SEED)
    for i, (caption, picture) in enumerate(zip(captions, pictures, strict=True)):
        with replacing(folder / f"{i:02d}.png") as beside:
            Image.fromarray(picture).save(beside, format="PNG")
        with replacing(folder / f"{i:02d}.txt") as beside:
            beside.write_text(caption.text + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lidit_stickers.newcomer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--write", type=Path, required=True, metavar="FOLDER", help="for 00.png, 00.txt, …"
    )
    parser.add_argument("--size", type=int, default=128, help="pixels (128)")
    options = parser.parse_args(arguments)
    write(options.write, options.size)
    print(f"{len(training_captions())} captioned pictures of a {NEWCOMER.name} in {options.write}")


if __name__ == "__main__":
    sys.exit(exit_status("newcomer", main))
