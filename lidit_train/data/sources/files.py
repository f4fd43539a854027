"""Picture files below one folder: what the sources "folder" and "table" have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from . import UNCAPTIONED, UNMASKED, LeftOut
from .faults import faults, uncaptioned
from .filters import Filters, tell_unread
from .looking import Beside, Columns, PictureEntry, looked_at
from .masks import ALPHA, open_alpha, open_mask
from .reading import open_picture, printable

if TYPE_CHECKING:
    from ...recipe import Data, Source


class PictureFiles:
    """Files that are opened anew for every picture; their names and captions are held as columns.

    Args:
        beside: finds what belongs to a row.
        weights: of its captions.
        places: where captions are looked for, for the sentence on a picture without one.
    """

    def __init__(
        self,
        root: Path,
        rows: Iterable[PictureEntry],
        beside: Beside,
        weights: Mapping[str, float],
        source: Source,
        data: Data,
        left_out: LeftOut,
        places: str,
    ):
        self.root, self.left_out = root, left_out
        self._weights, self._default = tuple(weights.values()), source.default_caption
        found = Columns.of(looked_at(root, rows, beside, Filters.of(source)), len(weights))
        self._names, self._captions = found.names, found.captions
        kept = np.ones(len(found.sizes), bool)
        looked = found.sizes, found.lengths, data, places, found.faults, self._default
        for reason, mask in faults(*looked).items():
            kept &= ~mask
            for i in np.flatnonzero(mask):
                left_out.add(reason, printable(found.labels[i]))
        self._places = np.flatnonzero(kept)  # of the pictures in the columns
        labels = [found.labels[place] for place in self._places]
        tell_unread(found.lengths[kept], labels.__getitem__, left_out)
        for reason, mask in (
            (UNMASKED, found.unmasked[kept]),
            (UNCAPTIONED, uncaptioned(found.lengths[kept])),
        ):
            for label in np.array(labels, object)[mask]:
                left_out.add(reason, printable(label))
        self.alpha, self.masked = beside.alpha, beside.alpha or beside.mask is not None
        self._masks, self._mask_stamps = found.masks, found.mask_stamps[kept]
        self._stamps = found.stamps[kept]
        self.sizes = found.sizes[kept]

    def __len__(self) -> int:
        return len(self.sizes)

    def name(self, index: int) -> str:
        """The picture's path below the folder."""
        return self._names[self._places[index]]

    def key(self, index: int) -> str:
        """A digest of path in the folder, size and time of change, not of where the folder is."""
        size, changed = self._stamps[index]
        text = f"{self.name(index)}\0{size}\0{changed}"
        if self.masked:
            text += f"\0{self._mask_name(index) or ALPHA}\0{self._mask_stamps[index].tolist()}"
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def content_key(self, index: int) -> str:
        digest = digest_of(self.root / self.name(index))
        if not self.masked:
            return digest
        mask = self._mask_name(index)
        of = digest_of(self.root / mask) if mask else ALPHA if self.alpha else ""
        return f"{digest} masked {of}"

    def captions(self, index: int) -> list[tuple[str, float]]:
        texts = (column[self._places[index]] for column in self._captions)
        found = [(text, weight) for text, weight in zip(texts, self._weights) if text]
        return found or [(self._default, 1.0)]

    def picture(self, index: int, size: tuple[int, int]) -> Image.Image:
        return open_picture(self.root / self.name(index), printable(self.name(index)))

    def mask(self, index: int) -> Image.Image | None:
        if self.alpha:
            return open_alpha(self.root / self.name(index), printable(self.name(index)))
        mask = self._mask_name(index) if self.masked else ""
        return open_mask(self.root / mask, printable(mask)) if mask else None

    def _mask_name(self, index: int) -> str:
        return self._masks[self._places[index]]

    def content(self, index: int, rows: int, columns: int) -> None:
        return None


def digest_of(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
