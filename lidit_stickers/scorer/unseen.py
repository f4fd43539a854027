"""How often the scorer is right on scenes that it was not fitted on, and what it takes for what.

    python -m lidit_stickers.scorer.unseen --count 1000

Scenes of new captions of all of the grammar's kinds are drawn, and read as they are, noised,
blurred, and as the autoencoder gives them back. A scene is right if the whole request holds, as
the strict score has it. Beside it: the share of strong edges that are left where they were, as
the scorer forgives softness.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from lidit_core.checkpoints.lidit import load_vae
from lidit_core.errors import check, exit_status
from lidit_core.paths import SHIPPED_WEIGHTS
from lidit_eval.statistics import wilson

from ..scenes.grammar import Caption, captions
from ..scenes.request import SceneRequest
from .damage import Alter, blurred, noisy, reconstruct, strong_edges
from .scorer import FoundScene, judge, read
from .selftest import drawn

SEED = 20_261_130  # of captions and scenes; nothing else is drawn from it
DRAWN, ALTERED = 0.01, 0.03  # errors below which the scorer has to stay


@dataclass(frozen=True)
class Outcome:
    """What came of one way to alter the scenes."""

    name: str
    wrong: int
    count: int
    edges: float  # strong edges of the drawings that are strong here too, as a share
    confused: Counter[str]  # in words, and how often
    limit: float  # of the error

    @property
    def error(self) -> float:
        return self.wrong / self.count

    @property
    def holds(self) -> bool:
        return self.error < self.limit


def unseen_captions(count: int) -> list[Caption]:
    """Captions of all of the grammar's kinds, from a seed of their own."""
    return captions(count, seed=SEED)


def trials(vae: Path) -> Iterator[tuple[str, float, Alter]]:
    """The ways to alter scenes, and the errors that are borne."""
    model = load_vae(vae)
    yield "drawn", DRAWN, np.asarray
    yield "noise 12/255", ALTERED, noisy(12)
    yield "blur 1.5 px", ALTERED, blurred(1.5)
    yield "through the autoencoder", ALTERED, lambda picture: reconstruct(model, picture)


def outcome(
    name: str,
    limit: float,
    alter: Alter,
    pictures: Sequence[np.ndarray],
    asked: Sequence[Caption],
) -> Outcome:
    """Alter, read and judge every picture."""
    wrong, confused, edges = 0, Counter(), np.zeros(2)
    for picture, caption in zip(pictures, asked, strict=True):
        altered = alter(picture)
        scene = read(altered)
        right = judge(scene, caption.request).all
        wrong += not right
        confused.update([] if right else confusions(scene, caption.request))
        true = strong_edges(picture)
        edges += true.sum(), (true & strong_edges(altered)).sum()
    return Outcome(name, wrong, len(asked), float(edges[1] / edges[0]), confused, limit)


def confusions(scene: FoundScene, request: SceneRequest) -> list[str]:
    """What was taken for what: "cat for dog", "star not seen", "something seen", "colour"."""
    wanted = Counter(item.kind for item in request.items for _ in range(item.count))
    there = Counter(found.kind or "something" for found in scene.objects)
    missing, more = list((wanted - there).elements()), list((there - wanted).elements())
    both = min(len(missing), len(more))
    said = [f"{one} taken for {other}" for one, other in zip(missing, more)]
    said += [f"{kind} not seen" for kind in missing[both:]]
    said += [f"{kind} seen besides" for kind in more[both:]]
    verdict = judge(scene, request)
    failed = [f.name for f in fields(verdict) if not getattr(verdict, f.name)]
    return said or failed


def table(outcomes: Sequence[Outcome]) -> str:
    """A line each, and every confusion."""
    lines = [
        "| scenes | wrong | error | 95 % interval | has to be | strong edges in place |",
        "|---|---|---|---|---|---|",
    ]
    for o in outcomes:
        low, high = wilson(o.wrong, o.count)
        verdict = f"under {o.limit:.0%}: {'holds' if o.holds else '**does not hold**'}"
        lines.append(
            f"| {o.name} | {o.wrong} of {o.count} | {o.error:.2%} | {low:.2%} to {high:.2%} "
            f"| {verdict} | {o.edges:.3f} |"
        )
    lines.append("")
    for o in outcomes:
        named = ", ".join(f"{what} ({n})" for what, n in o.confused.most_common())
        lines.append(f"{o.name}: {named or 'no confusion'}")
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> int:
    """Print the table; the exit status, 1 where a limit does not hold."""
    parser = argparse.ArgumentParser(
        prog="python -m lidit_stickers.scorer.unseen",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--count", type=int, default=1000, help="scenes")
    parser.add_argument("--size", type=int, default=128, help="pixels")
    parser.add_argument("--vae", type=Path, default=SHIPPED_WEIGHTS / "stickers-vae.safetensors")
    options = parser.parse_args(words)
    check(options.count >= 1, f"--count is {options.count}; expected 1 or more")
    asked = unseen_captions(options.count)
    pictures = drawn(asked, options.size, SEED)
    found = [outcome(*way, pictures, asked) for way in trials(options.vae)]
    print(table(found))
    return int(not all(each.holds for each in found))


if __name__ == "__main__":
    sys.exit(exit_status("unseen", main))
