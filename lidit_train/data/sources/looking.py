"""A look at every picture file before training: sizes, captions, and what leaves it out."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from .filters import Filters
from .masks import Size, header_has_alpha, mask_fault
from .reading import MISSING, UNREADABLE, header_size
from .texts import Texts

THREADS = 8  # that look at files at once: on a network's disk most of the time is waiting
AT_ONCE = 4096  # files handed to them
FileStamp = tuple[int, int]  # bytes, and nanoseconds of the last change


@dataclass(frozen=True)
class PictureEntry:
    """One picture before it was looked at."""

    name: str  # its path below the folder, with "/"
    label: str  # how a warning calls it
    captions: tuple[bytes | str | None, ...] = ()  # as found; a source may read them later
    fields: Mapping[str, object] | None = None  # of the source's filters
    mask: str = ""  # the mask's path below the folder; "" = it has none


@dataclass(frozen=True)
class Beside:
    """How a source finds what belongs to a picture; called by many threads."""

    captions: Callable[[PictureEntry], Sequence[bytes | str | None]]  # one for each of the recipe's
    fields: Callable[
        [PictureEntry], Mapping[str, object] | None
    ]  # of the filters; None = there are none
    mask: Callable[[PictureEntry], str] | None = (
        None  # its path below the folder; None = no masks in files
    )
    alpha: bool = False  # whether the mask is the alpha channel


@dataclass(frozen=True)
class Look:
    """What was found of one picture."""

    row: PictureEntry
    captions: list[tuple[str, int]]  # each with its length, or what stands in its place
    size: Size  # width and height, or what stands in their place
    stamp: FileStamp
    fault: str  # of the source's filters, or its mask: why it is left out, or ""
    mask: str = ""  # the mask's path below the folder; "" = it has none
    mask_stamp: FileStamp = (0, 0)
    unmasked: bool = False  # though the source has masks


@dataclass(frozen=True, eq=False)
class Columns:
    """The looks at N pictures with K captions each, as columns."""

    names: Texts
    labels: list[str]
    captions: list[Texts]  # K
    lengths: np.ndarray  # (N, K) int64
    sizes: np.ndarray  # (N, 2) int32
    stamps: np.ndarray  # (N, 2) int64
    faults: list[str]
    masks: Texts
    mask_stamps: np.ndarray  # (N, 2) int64
    unmasked: np.ndarray  # (N,) bool

    @classmethod
    def of(cls, looks: Iterable[Look], captions: int) -> Columns:
        names, labels, faults = [], [], []
        texts: list[list[str]] = [[] for _ in range(captions)]
        lengths, sizes, stamps, masks = [], [], [], []
        for look in looks:
            names.append(look.row.name)
            labels.append(look.row.label)
            faults.append(look.fault)
            lengths.append([length for _, length in look.captions])
            sizes.append(look.size)
            stamps.append(look.stamp)
            masks.append((look.mask, *look.mask_stamp, look.unmasked))
            for column, (text, _) in zip(texts, look.captions):
                column.append(text)
        return cls(
            Texts.of(names),
            labels,
            [Texts.of(column) for column in texts],
            np.array(lengths, np.int64).reshape(-1, captions),
            np.array(sizes, np.int32).reshape(-1, 2),
            np.array(stamps, np.int64).reshape(-1, 2),
            faults,
            Texts.of(mask for mask, *_ in masks),
            np.array([stamp for _, *stamp, _ in masks], np.int64).reshape(-1, 2),
            np.array([unmasked for *_, unmasked in masks], bool),
        )


def looked_at(
    root: Path, rows: Iterable[PictureEntry], beside: Beside, filters: Filters
) -> Iterator[Look]:
    """Look at the pictures below a folder, several at once, in their order."""

    def look(row: PictureEntry) -> Look:
        captions = [filters.read_caption(raw) for raw in beside.captions(row)]
        fault = filters.fault(beside.fields(row)) if filters.fields else ""
        size, stamp = size_and_stamp(root / row.name)
        mask, mask_stamp, unmasked, unlike = _mask(root, row, size, beside)
        return Look(row, captions, size, stamp, fault or unlike, mask, mask_stamp, unmasked)

    rows = iter(rows)
    with ThreadPoolExecutor(THREADS) as pool:
        while some := list(islice(rows, AT_ONCE)):
            yield from pool.map(look, some)


def _mask(
    root: Path, row: PictureEntry, size: Size, beside: Beside
) -> tuple[str, FileStamp, bool, str]:
    """The mask's path, its stamp, whether there is none, and why the picture is left out for it."""
    if beside.alpha:
        return "", (0, 0), size[0] > 0 and not header_has_alpha(root / row.name), ""
    if beside.mask is None:
        return "", (0, 0), False, ""
    name = beside.mask(row)
    found, stamp = size_and_stamp(root / name) if name else (MISSING, (0, 0))
    if found == MISSING:
        return "", (0, 0), True, ""
    return name, stamp, False, mask_fault(size, found)


def size_and_stamp(path: Path) -> tuple[Size, FileStamp]:
    """Width and height; bytes, and nanoseconds of the last change."""
    try:
        found = path.stat()
    except (OSError, ValueError):  # the latter: JSON's half a surrogate pair is in no file's name
        return MISSING, (0, 0)
    regular = stat.S_ISREG(found.st_mode)  # a pipe would be waited for
    return header_size(path) if regular else UNREADABLE, (found.st_size, found.st_mtime_ns)
