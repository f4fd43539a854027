"""Sources of captioned pictures: one file a kind, all alike to the rest of the trainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from PIL import Image

LINKED = "is not followed; name it as a source of its own"  # of a link to a folder
WITH_URL, TAG_LIST = "with an address of the web", "that is a bare list of tags"  # of captions
UNMASKED = "has no mask, so that the loss counts all of it"  # of a picture that is not left out
UNCAPTIONED = "has no caption and reads the source's default_caption"  # as above
NOUNS = {LINKED: "linked folder", WITH_URL: "caption", TAG_LIST: "caption"}  # else "picture"


@dataclass
class LeftOut:
    """What a source does not give, by reason: how many, and the first few by name."""

    counts: dict[str, int] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, name: str, most: int = 3) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + 1
        named = self.names.setdefault(reason, [])
        if len(named) < most:
            named.append(name)

    def sentences(self) -> list[str]:
        """A sentence a reason: ``3 pictures left out: cannot be decoded (a.png, b.png, c.png)``."""
        return [
            f"{count} {NOUNS.get(reason, 'picture')}{'s' * (count != 1)}"
            f"{'' if reason in (UNMASKED, UNCAPTIONED) else ' left out'}: {reason} "
            f"({', '.join(self.names[reason])}{', …' * (count > len(self.names[reason]))})"
            for reason, count in self.counts.items()
        ]


class PictureSource(Protocol):
    """Pictures that are known, with their sizes, before any is opened; they never change places.

    ``sizes`` is (N, 2) int32, width and height in pixels; (0, 0) for one that can be drawn at any.
    """

    sizes: np.ndarray
    left_out: LeftOut
    masked: bool  # whether any picture may have a mask

    def key(self, index: int) -> str:
        """What tells this picture from every other, and from itself after a change."""
        ...

    def content_key(self, index: int) -> str:
        """The same of a picture of the same bytes, wherever it lies and whenever it was copied.

        Raises:
            OSError: it cannot be read.
        """
        ...

    def name(self, index: int) -> str:
        """What a warning calls it."""
        ...

    def captions(self, index: int) -> Sequence[tuple[str, float]]:
        """A picture's captions with how often each is read, as relative weights; one or more."""
        ...

    def mask(self, index: int) -> Image.Image | None:
        """What the loss counts of it, grey, from 0 to white; None = all.

        Raises:
            As `picture`.
        """
        ...

    def picture(self, index: int, size: tuple[int, int]) -> Image.Image:
        """The picture as RGB; one that can be drawn at any size, at this (width, height).

        Raises:
            OSError, or what Pillow raises: it cannot be decoded.
        """
        ...

    def content(self, index: int, rows: int, columns: int) -> np.ndarray | None:
        """What each patch of the picture shows, (rows, columns) uint8, or None if not known."""
