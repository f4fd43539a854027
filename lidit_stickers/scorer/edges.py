"""How many of a scene's strong edges a picture has, without knowing how it was drawn.

What the scorer found is drawn anew, as sharp as the font, and its strong edges are counted.
"""

from __future__ import annotations

import numpy as np

from ..scenes.scenes import Scene, Sprite, render
from .damage import strong_edges
from .scorer import FoundObject, FoundScene
from .segments import SIDE

WIDER = 2 / SIDE  # by how much a found box exceeds its glyph, as its edge is smoothed beforehand


def edges_kept(picture: np.ndarray, found: FoundScene) -> float | None:
    """The strong edges of a picture as a share of those of its scene drawn anew, at most 1.

    Args:
        picture: (S, S, 3) uint8.
        found: what was read in it; objects without a kind are left out.
    Returns:
        None where nothing was found that has a strong edge.
    """
    scene = redrawn(found)
    wanted = 0 if scene is None else int(strong_edges(render(scene, len(picture))).sum())
    return min(1.0, int(strong_edges(picture).sum()) / wanted) if wanted else None


def redrawn(found: FoundScene) -> Scene | None:
    """The scene that a picture shows; None without a background that has a name, or objects."""
    sprites = tuple(_sprite(each, each.kind) for each in found.objects if each.kind is not None)
    return Scene(sprites, found.background) if sprites and found.background else None


def _sprite(found: FoundObject, kind: str) -> Sprite:
    return Sprite(kind, found.colour, *found.centre, max(found.side - WIDER, WIDER))
