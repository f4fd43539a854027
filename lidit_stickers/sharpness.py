"""How sharp the autoencoder is, on scenes that it has never seen.

    python -m lidit_stickers.sharpness
    python -m lidit_stickers.sharpness --vae runs/stickers-vae.safetensors --strip strip.png

The signal-to-noise ratio inside objects and over all, and the drawing's strong edges that the
round trip keeps. The scorer forgives softness; these do not.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from math import log10
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lidit_core.checkpoints.lidit import load_vae
from lidit_core.errors import check, exit_status
from lidit_core.model.vae import TinyAutoencoder
from lidit_core.paths import SHIPPED_WEIGHTS

from .making.train_autoencoder import any_request
from .scenes.kinds import BACKGROUNDS
from .scenes.scenes import Scene, place, render
from .scorer.damage import STRONG, reconstruct, strong_edges

SEED = 20_261_126  # of the scenes; no training draws from it
COLUMNS = 8  # of the strip


@dataclass(frozen=True)
class Sharpness:
    """Means over scenes in dB, and shares of the strong edges of all scenes together."""

    inside: float  # of the pixels that objects cover
    overall: float
    edges: float  # strong edges of the round trip, as a share of the drawing's
    in_place: float  # strong edges of the drawing that are strong in the round trip too

    def __str__(self) -> str:
        return (
            f"{self.inside:.2f} dB inside objects, {self.overall:.2f} dB over all; edges stronger "
            f"than {STRONG}/255: {self.edges:.3f}, in their place {self.in_place:.3f}"
        )


def unseen_scenes(count: int) -> list[Scene]:
    """Scenes of any objects, the same for the same count.

    Raises:
        LiDiTError: none is asked for.
    """
    check(count >= 1, f"--count is {count}; expected 1 or more")
    rng = np.random.default_rng(SEED)
    return [place(any_request(rng), rng) for _ in range(count)]


def sharpness(vae: TinyAutoencoder, scenes: list[Scene], size: int) -> Sharpness:
    """How sharp drawn scenes are after the round trip, at a size in pixels."""
    ratios, edges = [], np.zeros(3)  # edges of the drawings, of the round trips, of both
    for scene in scenes:
        drawing = render(scene, size)
        rebuilt = reconstruct(vae, drawing)
        error = ((drawing.astype(np.float64) - rebuilt) / 255) ** 2
        objects = (drawing != np.array(BACKGROUNDS[scene.background], np.uint8)).any(axis=2)
        ratios.append([-10 * log10(part.mean()) for part in (error[objects], error)])
        true, ours = strong_edges(drawing), strong_edges(rebuilt)
        edges += true.sum(), ours.sum(), (true & ours).sum()
    return Sharpness(*np.mean(ratios, axis=0), *(edges[1:] / edges[0]))


def strip(vae: TinyAutoencoder, scenes: list[Scene], size: int) -> Image.Image:
    """Drawings above, their round trips below."""
    drawings = [render(scene, size) for scene in scenes]
    rows = [drawings, [reconstruct(vae, drawing) for drawing in drawings]]
    return Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in rows]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vae", type=Path, default=SHIPPED_WEIGHTS / "stickers-vae.safetensors")
    parser.add_argument("--count", type=int, default=1000, help="scenes")
    parser.add_argument("--size", type=int, default=128, help="pixels")
    parser.add_argument("--strip", type=Path, help="write drawings and their round trips here")
    options = parser.parse_args()
    vae = load_vae(options.vae)
    with torch.no_grad():
        scenes = unseen_scenes(options.count)
        print(sharpness(vae, scenes, options.size))
        if options.strip:
            strip(vae, scenes[:COLUMNS], options.size).save(options.strip)


if __name__ == "__main__":
    sys.exit(exit_status("sharpness", main))
