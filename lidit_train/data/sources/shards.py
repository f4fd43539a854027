"""Pictures in tar files of the WebDataset layout, each read where the index says it is."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import multiprocessing
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from functools import lru_cache
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image

from lidit_core.errors import LiDiTError
from lidit_core.io.atomic import replacing

from . import UNCAPTIONED, UNMASKED, LeftOut
from .faults import faults, uncaptioned
from .filters import SIDECAR, Filters, json_fields, tell_unread
from .formats import places, sought
from .masks import ALPHA, header_has_alpha, mask_fault, open_alpha, open_mask
from .reading import header_size, open_picture, printable, read_caption
from .tar_index import VERSION, Shard, ShardIndex, Wanted, index_shard, row_type

if TYPE_CHECKING:
    from ...recipe import Data, Source

log = logging.getLogger(__name__)

OPEN_SHARDS = 16  # that a process keeps open


class ShardSource:
    """Every picture of some shards, in the order of their names and of what is in them.

    All samples of a source are one array on disk, mapped into memory: it costs the processes of a
    machine no more than one copy of what they touch, and nothing to hand to a worker. Nothing is
    ever extracted.

    Args:
        index: folder of the shards' indices; the first to open a source writes them.
        processes: that read new shards; 0 = one a core.
    """

    sizes: np.ndarray

    def __init__(self, source: Source, data: Data, index: Path, processes: int = 0):
        self.shards = tuple(Shard.at(path) for path in shard_files(source.path))
        lower = {extension.lower(): weight for extension, weight in source.captions.items()}
        self._filters = Filters.of(source)
        self._mask = source.mask.lower().removeprefix(".")
        self.masked = bool(source.mask)
        self._wanted = Wanted(tuple(sought(lower)), _beside(self._mask, self._filters))
        self._places = places(source.captions)
        self._weights, self._default = tuple(source.captions.values()), source.default_caption
        self._index = index
        limits = (data.smallest, data.buckets.limit, Image.MAX_IMAGE_PIXELS)
        of = repr((VERSION, self.shards, self._wanted.captions, limits))
        if self._filters.any or self.masked:  # else it is named as it was before there were any
            of += repr((self._filters, self._mask))
        if self._default:
            of += "\0default"
        self._file = index / f"samples-{hashlib.sha256(of.encode()).hexdigest()[:16]}.npy"
        if not self._file.is_file():
            index_shards(self.shards, self._wanted, index, processes)
            self._write(data)
        self.left_out = LeftOut(**json.loads(self._file.with_suffix(".json").read_text("utf-8")))
        self._map()

    def index_files(self) -> set[Path]:
        """What it reads in the folder of indices."""
        own = {shard.index_file(self._wanted, self._index) for shard in self.shards}
        return {*own, self._file, self._file.with_suffix(".json")}

    def _map(self) -> None:
        self._rows = np.load(self._file, mmap_mode="r")
        self.sizes = self._rows["size"]

    def __getstate__(self) -> dict:
        return {k: v for k, v in self.__dict__.items() if k not in ("_rows", "sizes")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._map()

    def _write(self, data: Data) -> None:
        left_out = LeftOut()
        kept = [self._kept(place, data, left_out) for place in range(len(self.shards))]
        with replacing(self._file.with_suffix(".json")) as beside:
            beside.write_text(json.dumps(asdict(left_out)), encoding="utf-8")
        with replacing(self._file) as beside, beside.open("wb") as file:
            np.save(file, np.concatenate([np.zeros(0, row_type(self._wanted.columns)), *kept]))

    def _kept(self, place: int, data: Data, left_out: LeftOut) -> np.ndarray:
        index = self._index_of(place)
        for reason, count in index.left_out.counts.items():
            names = index.left_out.names[reason]
            for name in [*names, *names[:1] * (count - len(names))]:
                left_out.add(reason, name)
        rows, kept = index.rows, np.ones(len(index.rows), bool)
        rows["shard"] = place
        self._do_without(rows)
        looks = [self._look(row) for row in rows] if self._filters.fields or self.masked else []
        filtered = [fault for fault, _ in looks]

        def called(row: int) -> str:
            return printable(f"{self.shards[place].name}: {index.keys[row]}")

        lengths = rows["captions"][:, : len(self._weights), 1]
        looked = rows["size"], lengths, data, self._places, filtered, self._default
        for reason, mask in faults(*looked).items():
            kept &= ~mask
            for i in np.flatnonzero(mask):
                left_out.add(reason, called(int(i)))
        places = np.flatnonzero(kept)
        for row in places:
            if looks and looks[row][1]:
                left_out.add(UNMASKED, called(int(row)))
        for row in np.flatnonzero(kept & uncaptioned(lengths)):
            left_out.add(UNCAPTIONED, called(int(row)))
        tell_unread(lengths[kept], lambda i: called(int(places[i])), left_out)
        return rows[kept]

    def _do_without(self, rows: np.ndarray) -> None:
        """Put the reason in the place of the length of each caption that is not wanted."""
        for row in rows if self._filters.without else ():
            for place in range(len(self._weights)):
                raw = self._member(row, place)
                if raw and (why := self._filters.read_caption(raw)[1]) <= 0:
                    row["captions"][place, 1] = why

    def _look(self, row: np.void) -> tuple[str, bool]:
        """The reason to leave a picture out for filters or mask, or ""; whether it lacks a mask."""
        fault = self._filters.fault(json_fields(self._beside(row, SIDECAR)))
        if not self.masked:
            return fault, False
        if self._mask == ALPHA:
            return fault, not header_has_alpha(io.BytesIO(self._picture(row)))
        raw = self._beside(row, self._mask)
        if raw is None:
            return fault, True
        return fault or mask_fault(tuple(row["size"].tolist()), header_size(io.BytesIO(raw))), False

    def _picture(self, row: np.void) -> bytes:
        return read_at(self.shards[row["shard"]], *row["picture"].tolist())

    def _beside(self, row: np.void, extension: str) -> bytes | None:
        """What belongs to a picture and is no caption."""
        if extension not in self._wanted.beside:
            return None
        return self._member(row, len(self._weights) + self._wanted.beside.index(extension))

    def _member(self, row: np.void, column: int) -> bytes | None:
        """What belongs to a picture, by its place among captions and what is beside them."""
        first, length = row["captions"][column].tolist()
        return read_at(self.shards[row["shard"]], first, length) if length > 0 else None

    def _index_of(self, place: int) -> ShardIndex:
        file = self.shards[place].index_file(self._wanted, self._index)
        index = ShardIndex.load(file)
        if index is None:
            raise LiDiTError(f"the index {file} of a shard is gone or broken; start again")
        return index

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, index: int) -> str:
        """The shard's and the sample's, looked up in the index on disk."""
        row = self._rows[index]
        held = self._index_of(row["shard"])
        place = np.searchsorted(held.rows["picture"][:, 0], row["picture"][0])
        return printable(f"{self.shards[row['shard']].name}: {held.keys[place]}")

    def key(self, index: int) -> str:
        """A digest of the shard's name, size and time of change, and the picture's place in it."""
        row = self._rows[index]
        shard = self.shards[row["shard"]]
        of = (shard.name, shard.size, shard.changed, *row["picture"].tolist())
        if self.masked:
            of += (self._mask, *row["captions"][len(self._weights) :].flatten().tolist())
        return hashlib.sha256(repr(of).encode()).hexdigest()

    def content_key(self, index: int) -> str:
        row = self._rows[index]
        digest = hashlib.sha256(self._picture(row)).hexdigest()
        return f"{digest} masked {self._mask_digest(row)}" if self.masked else digest

    def _mask_digest(self, row: np.void) -> str:
        raw = self._beside(row, self._mask)
        return hashlib.sha256(raw).hexdigest() if raw else ALPHA if self._mask == ALPHA else ""

    def mask(self, index: int) -> Image.Image | None:
        row = self._rows[index]
        alpha = self.masked and self._mask == ALPHA
        raw = self._picture(row) if alpha else self._beside(row, self._mask)
        try:
            file = io.BytesIO(raw or b"")
            return None if raw is None else (open_alpha if alpha else open_mask)(file, "its mask")
        except OSError as error:
            raise OSError(f"{self.name(index)}: {error}") from error

    def captions(self, index: int) -> list[tuple[str, float]]:
        found = (self._member(self._rows[index], place) for place in range(len(self._weights)))
        texts = [
            (read_caption(raw)[0], weight)
            for raw, weight in zip(found, self._weights)
            if raw is not None
        ]
        return texts or [(self._default, 1.0)]

    def picture(self, index: int, size: tuple[int, int]) -> Image.Image:
        data = self._picture(self._rows[index])
        try:
            return open_picture(io.BytesIO(data), "it")
        except OSError as error:
            raise OSError(f"{self.name(index)}: {error}") from error

    def content(self, index: int, rows: int, columns: int) -> None:
        return None


def _beside(mask: str, filters: Filters) -> tuple[str, ...]:
    """Extensions of what belongs to a picture and is no caption."""
    masks = (mask,) if mask not in ("", ALPHA) else ()
    return (*masks, *((SIDECAR,) if filters.fields else ()))


def read_at(shard: Shard, first: int, length: int) -> bytes:
    """Some bytes of a shard, by a process's own file, from any thread."""
    file = _opened(os.getpid(), shard)
    if hasattr(os, "pread"):
        data = os.pread(file.fileno(), length, first)
    else:  # Windows: a file of its own, as two threads must not share a position
        with open(shard.path, "rb") as own:
            own.seek(first)
            data = own.read(length)
    if len(data) != length:
        raise OSError(f"shard {shard.path} has {len(data)} of {length} bytes at {first}")
    return data


@lru_cache(OPEN_SHARDS)  # one that falls out is closed when the last thread has done with it
def _opened(process: int, shard: Shard) -> BinaryIO:
    file = open(shard.path, "rb", buffering=0)
    found = os.fstat(file.fileno())
    if (found.st_size, found.st_mtime_ns) != (shard.size, shard.changed):
        raise OSError(f"shard {shard.path} has changed since it was indexed; start again")
    return file


def index_shards(shards: Sequence[Shard], wanted: Wanted, folder: Path, processes: int = 0) -> None:
    """Index the shards that have no index yet; one that is done stays done if this is stopped."""
    missing = [s for s in shards if ShardIndex.load(s.index_file(wanted, folder)) is None]
    processes = min(processes or _cores(), len(missing))
    try:
        for done, _ in enumerate(_index(missing, wanted, folder, processes), start=1):
            if done % 100 == 0 or done == len(missing):
                log.info("indexed %d of %d new shards", done, len(missing))
    except BrokenProcessPool:
        log.warning("the processes that index shards have died; this one goes on alone")
        index_shards(shards, wanted, folder, processes=1)


def _index(shards: Sequence[Shard], wanted: Wanted, folder: Path, processes: int) -> Iterator[None]:
    if processes <= 1:
        yield from (index_shard(shard, wanted, folder) for shard in shards)
        return
    spawn = multiprocessing.get_context("spawn")  # a fork would copy torch's threads half
    with ProcessPoolExecutor(processes, mp_context=spawn) as pool:
        jobs = [pool.submit(index_shard, shard, wanted, folder) for shard in shards]
        try:
            yield from (job.result() for job in as_completed(jobs))
        finally:
            pool.shutdown(cancel_futures=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shard_files(path: str) -> list[Path]:
    """The tars of a folder, a file, a glob, or names with ``{000..012}`` or ``{a,b}`` in them."""
    if Path(path).is_dir():
        found = sorted(Path(path).glob("*.tar"))
    elif Path(path).is_file():
        found = [Path(path)]
    else:
        named = {pattern: sorted(glob(pattern)) for pattern in expand(path)}
        gone = [pattern for pattern, files in named.items() if not files]
        if gone and len(named) > 1:
            raise LiDiTError(
                f"{len(gone)} of the {len(named)} shards {path} are not there, {gone[0]} among "
                "them; fetch them or name those that are"
            )
        found = [Path(file) for files in named.values() for file in files]
    if not found:
        raise LiDiTError(f"{path} has no shards; give a folder of *.tar, a file or a glob")
    return found


def expand(path: str) -> list[str]:
    """A shell's braces: ``{08..10}`` is 08, 09, 10; ``{a,b}`` is a and b."""
    match = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", path)
    if match is None:
        return [path]
    first, last, several = match.groups()
    if several is None:
        parts = [f"{n:0{len(first)}}" for n in range(int(first), int(last) + 1)]
    else:
        parts = several.split(",")
    return [p for part in parts for p in expand(path[: match.start()] + part + path[match.end() :])]
