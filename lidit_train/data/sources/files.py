"""Picture files below one folder: what the sources "folder" and "table" have in common."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from . import LeftOut
from .reading import MISSING, UNREADABLE, faults, header_size, open_picture, printable, read_caption
from .texts import Texts

if TYPE_CHECKING:
    from ...recipe import Data

THREADS = 8  # that look at files at once: on a network's disk most of the time is waiting
AT_ONCE = 4096  # files handed to them


@dataclass(frozen=True)
class Row:
    """One picture before it was looked at."""

    name: str  # its path below the folder, with "/"
    label: str  # how a warning calls it
    captions: tuple[bytes | str | None, ...] = ()  # as found; a source may read them later


class PictureFiles:
    """Files that are opened anew for every picture; their names and captions are held as columns.

    Args:
        captions_of: of a row its captions, one for each of ``weights``; called by many threads.
        places: where captions are looked for, for the sentence on a picture without one.
    """

    def __init__(
        self,
        root: Path,
        rows: Iterable[Row],
        captions_of: Callable[[Row], Sequence[bytes | str | None]],
        weights: dict[str, float],
        data: Data,
        left_out: LeftOut,
        places: str,
    ):
        self.root, self.left_out = root, left_out
        self._weights = tuple(weights.values())
        self._names, self._captions, lengths, sizes, stamps, labels = _columns(
            _looked_at(root, rows, captions_of), len(weights)
        )
        kept = np.ones(len(sizes), bool)
        for reason, mask in faults(sizes, lengths, data, places).items():
            kept &= ~mask
            for i in np.flatnonzero(mask):
                left_out.add(reason, printable(labels[i]))
        self._places = np.flatnonzero(kept)  # of the pictures in the columns
        self._stamps = stamps[kept]
        self.sizes = sizes[kept]

    def __len__(self) -> int:
        return len(self.sizes)

    def name(self, index: int) -> str:
        """The picture's path below the folder."""
        return self._names[self._places[index]]

    def key(self, index: int) -> str:
        """Of its path below the folder, size and time of change, not of where the folder is."""
        size, changed = self._stamps[index]
        text = f"{self.name(index)}\0{size}\0{changed}"
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def content_key(self, index: int) -> str:
        with (self.root / self.name(index)).open("rb") as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()

    def captions(self, index: int) -> list[tuple[str, float]]:
        texts = (column[self._places[index]] for column in self._captions)
        return [(text, weight) for text, weight in zip(texts, self._weights) if text]

    def picture(self, index: int, size: tuple[int, int]) -> Image.Image:
        return open_picture(self.root / self.name(index), printable(self.name(index)))

    def content(self, index: int, rows: int, columns: int) -> None:
        return None


def _looked_at(
    root: Path, rows: Iterable[Row], captions_of: Callable[[Row], Sequence[bytes | str | None]]
) -> Iterator[tuple[Row, list[tuple[str, int]], tuple[int, int], tuple[int, int]]]:
    def look(row: Row):
        captions = [read_caption(raw) for raw in captions_of(row)]
        return row, captions, *_size_and_stamp(root / row.name)

    rows = iter(rows)
    with ThreadPoolExecutor(THREADS) as pool:
        while some := list(islice(rows, AT_ONCE)):
            yield from pool.map(look, some)


def _size_and_stamp(path: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """Width and height; bytes, and nanoseconds of the last change."""
    try:
        found = path.stat()
    except (OSError, ValueError):  # the latter: JSON's half a surrogate pair is in no file's name
        return MISSING, (0, 0)
    regular = stat.S_ISREG(found.st_mode)  # a pipe would be waited for
    return header_size(path) if regular else UNREADABLE, (found.st_size, found.st_mtime_ns)


def _columns(looked_at: Iterable, captions: int) -> tuple:
    """(names, captions' texts, lengths (N, K), sizes (N, 2), stamps (N, 2), labels)."""
    sizes, stamps, lengths = [], [], []
    texts: list[list[str]] = [[] for _ in range(captions)]
    names, labels = [], []
    for row, read, size, stamp in looked_at:
        names.append(row.name)
        labels.append(row.label)
        sizes.append(size)
        stamps.append(stamp)
        lengths.append([length for _, length in read])
        for column, (text, _) in zip(texts, read):
            column.append(text)
    return (
        Texts.of(names),
        [Texts.of(column) for column in texts],
        np.array(lengths, np.int64).reshape(-1, captions),
        np.array(sizes, np.int32).reshape(-1, 2),
        np.array(stamps, np.int64).reshape(-1, 2),
        labels,
    )
