"""Measures the scorer itself: `python -m lidit_stickers.scorer.selftest`.

On drawn scenes of the evaluation prompts it must find everything, also when they are soft, noisy
or half as large; under captions of other scenes, and in things it does not know, nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from lidit_core.errors import check, exit_status

from ..evaluation import evaluation_prompts
from ..scenes.glyphs import draw_emoji, glyph
from ..scenes.grammar import Caption
from ..scenes.kinds import BACKGROUNDS, KINDS
from ..scenes.request import SceneRequest
from ..scenes.scenes import place, render
from .damage import Alter, blurred, noisy
from .report import CategoryScore, Report, report
from .scorer import judge, read

FOREIGN = (
    "🍒🌽🍪🧀🚜🚁🎄💡🔔🏀📷👻🌞🏆⚓🥁☕🔨✏👕👗🧦🪑👟🧢🐔🦄🐴🐮🛴"
    "🧲🪁🌹🥑🍆🥦🚒🚚🏰👓🎒🚦🧁🥨🐞🐻🐯🐨"
)


@dataclass(frozen=True)
class Trial:
    """One way to alter the drawn scenes before they are scored."""

    name: str
    size: int
    alter: Alter


TRIALS = (
    Trial("drawn, 128 px", 128, np.asarray),
    Trial("drawn, 64 px", 64, np.asarray),
    Trial("blur 1.5 px", 128, blurred(1.5)),
    Trial("blur 2.5 px", 128, blurred(2.5)),
    Trial("noise 12/255", 128, noisy(12)),
)


def drawn(captions: Sequence[Caption], size: int = 128, seed: int = 0) -> list[np.ndarray]:
    """One scene for each caption, (size, size, 3) uint8; each has its own seed."""
    return [
        render(place(caption.request, np.random.default_rng((seed, i))), size)
        for i, caption in enumerate(captions)
    ]


def shuffled(result: Report) -> tuple[CategoryScore, ...]:
    """The same scenes under the next caption of the category that asks for something else."""
    groups: dict[str, list[int]] = {}
    for i, caption in enumerate(result.captions):
        groups.setdefault(caption.category, []).append(i)
    rows = []
    for name, members in groups.items():
        verdicts = [
            judge(result.scenes[i], _other_request(result.captions, members, index))
            for index, i in enumerate(members)
        ]
        hits = sum(verdict.category(name) for verdict in verdicts)
        rows.append(
            CategoryScore(name, len(members), hits, sum(verdict.all for verdict in verdicts))
        )
    return tuple(rows)


def _other_request(captions: Sequence[Caption], members: list[int], index: int) -> SceneRequest:
    """The first request after `index`, going round, with other objects than the one there."""
    own = captions[members[index]].request
    round_trip = members[index + 1 :] + members[:index]
    return next(captions[i].request for i in round_trip if captions[i].request.items != own.items)


def unknown_objects() -> dict[str, list[np.ndarray]]:
    """Pictures of one thing of no kind: other emoji, discs, glyphs blurred beyond sense."""
    rng = np.random.default_rng(0)
    others = [_alone(draw_emoji(char), i, rng) for i, char in enumerate(FOREIGN)]
    discs = [_alone(_disc(kind), i, rng) for i, kind in enumerate(KINDS)]
    mush = [blurred(8)(_alone(glyph(kind), i, rng)) for i, kind in enumerate(KINDS)]
    return {"other emoji": others, "discs": discs, "blur 8 px": mush}


def _disc(kind: str) -> Image.Image:
    """An ellipse of the size and mean colour of a glyph."""
    pixels = np.asarray(glyph(kind), np.float32)
    solid = pixels[..., 3] > 128
    disc = Image.new("RGBA", glyph(kind).size)
    colour = tuple(int(c) for c in pixels[solid, :3].mean(0))
    ImageDraw.Draw(disc).ellipse((0, 0, disc.width - 1, disc.height - 1), fill=colour)
    return disc


def _alone(picture: Image.Image, index: int, rng: np.random.Generator) -> np.ndarray:
    """The RGBA picture in the middle of a plain scene of 128 px."""
    colours = tuple(BACKGROUNDS.values())
    canvas = Image.new("RGB", (128, 128), colours[index % len(colours)])
    scale = rng.uniform(45, 80) / max(picture.size)
    small = picture.resize([max(1, round(length * scale)) for length in picture.size])
    canvas.paste(small, ((128 - small.width) // 2, (128 - small.height) // 2), small)
    return np.asarray(canvas)


def recognised(pictures: Sequence[np.ndarray]) -> float:
    """Share of pictures in which any object is taken for a known kind."""
    return float(np.mean([any(o.kind for o in read(p).objects) for p in pictures]))


def main(arguments: list[str] | None = None) -> None:
    """Prints the measurements."""
    parser = argparse.ArgumentParser(
        prog="python -m lidit_stickers.scorer.selftest", description=__doc__
    )
    parser.add_argument("--self-test", action="store_true", help=argparse.SUPPRESS)  # as before
    parser.add_argument("--every", type=int, default=1, help="take every n-th prompt only")
    every = parser.parse_args(arguments).every
    check(every >= 1, f"--every is {every}; expected 1 or more")
    captions = evaluation_prompts()[::every]
    for number, trial in enumerate(TRIALS):
        pictures = [trial.alter(picture) for picture in drawn(captions, trial.size)]
        for picture in pictures[:60]:  # prepares the glyphs of each background, untimed
            read(picture)
        start = time.process_time()
        result = report(pictures, captions)
        speed = len(pictures) / (time.process_time() - start)
        print(f"\n{trial.name} ({speed:.0f} pictures per second of CPU)\n\n{result.markdown()}")
        if number == 0:
            lines = [f"{row.category} {row.score:.3f}" for row in shuffled(result)]
            print(f"under captions of other scenes: {', '.join(lines)}")
    shares = [f"{name} {recognised(ps):.3f}" for name, ps in unknown_objects().items()]
    print(f"taken for a known kind: {', '.join(shares)}")


if __name__ == "__main__":
    sys.exit(exit_status("selftest", main))
