"""The index of a tar: the place of each picture and caption, read once, kept beside the cache.

The standard library's tarfile is the reader. WebDataset's own stream cannot go on exactly where
it stopped, and its indexed reader ``wids`` was dropped in 1.0.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import IO

import numpy as np

from lidit_core.errors import LiDiTError
from lidit_core.io.atomic import replacing

from . import LeftOut
from .formats import is_picture, unread_format
from .reading import LEAVES, climbs, header_size, printable, read_caption
from .texts import Texts

VERSION = 2  # of what an index file holds; a change has all shards read again
BLOCK = 512  # bytes of a tar's header, and of the zeros that end it


@dataclass(frozen=True)
class Wanted:
    """The members that belong to a picture."""

    captions: tuple[tuple[str, ...], ...]  # of each caption the extensions it is looked for under
    beside: tuple[str, ...] = ()  # extensions of what is no caption

    @property
    def columns(self) -> int:
        return len(self.captions) + len(self.beside)


@dataclass(frozen=True)
class Shard:
    """A tar as it was found."""

    path: str  # absolute
    size: int  # bytes
    changed: int  # time of the last change, ns

    @classmethod
    def at(cls, path: Path) -> "Shard":
        found = path.stat()
        return cls(str(path.resolve()), found.st_size, found.st_mtime_ns)

    @property
    def name(self) -> str:
        return Path(self.path).name

    def index_file(self, wanted: Wanted, folder: Path) -> Path:
        """The file of the shard's index; another one if the shard or the captions change."""
        beside = ("beside", *wanted.beside) if wanted.beside else ()
        of = repr((VERSION, self.path, self.size, self.changed, *wanted.captions, *beside))
        return folder / f"{Path(self.path).stem}-{hashlib.sha256(of.encode()).hexdigest()[:16]}.npz"


def row_type(captions: int) -> np.dtype:
    """One sample: of the picture and each caption its first byte and length, 32 + 16 K bytes."""
    return np.dtype(
        [
            ("shard", "<i8"),  # its place among the source's
            ("picture", "<i8", (2,)),
            ("size", "<i4", (2,)),  # width and height, or what stands in their place
            ("captions", "<i8", (captions, 2)),  # a length of 0 or less says why there is none;
            # behind the captions what else belongs to the picture
        ]
    )


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """Every picture of one shard, whether a recipe leaves it out or not."""

    rows: np.ndarray  # (N,) row_type
    keys: Texts  # WebDataset's: the path up to the first dot of its last part
    left_out: LeftOut  # what is in the shard, but no picture that could be asked for

    def save(self, path: Path) -> None:
        told = np.frombuffer(json.dumps(asdict(self.left_out)).encode(), np.uint8)
        with replacing(path) as beside, beside.open("wb") as file:
            np.savez(file, rows=self.rows, keys=self.keys.data, ends=self.keys.ends, left_out=told)

    @classmethod
    def load(cls, path: Path) -> "ShardIndex | None":
        """Read an index; None where there is none, or a broken one."""
        try:
            with np.load(path, allow_pickle=False) as held:
                left_out = LeftOut(**json.loads(held["left_out"].tobytes()))
                return cls(held["rows"], Texts(held["keys"], held["ends"]), left_out)
        except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile):
            return None


def index_shard(shard: Shard, wanted: Wanted, folder: Path) -> None:
    """Read a shard's headers, its pictures' headers and its captions; write its index."""
    left_out, keys, kind = LeftOut(), [], row_type(wanted.columns)
    try:
        with tarfile.open(shard.path, "r:") as tar:
            rows = np.fromiter(_samples(tar, shard, wanted, left_out, keys), kind)
    except tarfile.TarError:
        rows = np.zeros(0, kind)
        left_out.add("shard is no tar, or a compressed one", printable(shard.name))
    except OSError as error:
        raise LiDiTError(
            f"shard {shard.path} cannot be read ({error}); mend or remove it"
        ) from error
    ShardIndex(rows, Texts.of(keys), left_out).save(shard.index_file(wanted, folder))


def _samples(
    tar: tarfile.TarFile,
    shard: Shard,
    wanted: Wanted,
    left_out: LeftOut,
    keys: list[str],
) -> Iterator[tuple]:
    """A row for each run of members of one key that holds a picture; its key joins ``keys``."""
    known = {extension for several in wanted.captions for extension in several}
    columns = (*wanted.captions, *((extension,) for extension in wanted.beside))
    for key, members in groupby(_members(tar, shard, left_out), lambda m: split(m.name)[0]):
        picture, size, captions = None, None, {}
        unread = ""
        for member in members if key else ():
            extension = split(member.name)[1]
            if is_picture(f".{extension}") and picture is None:
                picture = member.offset_data, member.size
                size = header_size(_opened(tar, member))
            elif extension in known and extension not in captions:
                captions[extension] = _caption(tar, member)
            elif extension in wanted.beside and extension not in captions:
                captions[extension] = member.offset_data, member.size
            unread = unread or unread_format(f".{extension}")
        if picture is not None:
            keys.append(key)
            yield 0, picture, size, [_first(captions, several) for several in columns]
        elif unread:
            left_out.add(unread, printable(f"{shard.name}: {key}"))
        elif known & captions.keys():
            left_out.add("has captions but no picture", printable(f"{shard.name}: {key}"))


def _first(captions: dict[str, tuple[int, int]], extensions: tuple[str, ...]) -> tuple[int, int]:
    return next((captions[e] for e in extensions if e in captions), (0, 0))


def _caption(tar: tarfile.TarFile, member: tarfile.TarInfo) -> tuple[int, int]:
    """First byte and length, or why there is none."""
    length = read_caption(_opened(tar, member).read())[1]
    return member.offset_data, member.size if length > 0 else length


def _opened(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(member)
    assert file is not None  # `_members` gives files alone
    return file


def _members(tar: tarfile.TarFile, shard: Shard, left_out: LeftOut) -> Iterator[tarfile.TarInfo]:
    """The files that are in a tar as a whole; no name is ever used as a path."""
    before = -1  # a header that was made to lead back would be read for ever
    while (member := _next(tar)) is not None and member.offset > before:
        if member.offset_data + member.size > shard.size:
            break
        before = member.offset
        tar.members.clear()  # it would keep every one
        if climbs(member.name):
            left_out.add(LEAVES, printable(f"{shard.name}: {member.name}"))
        elif member.isreg() and not member.issparse():
            yield member
    tar.fileobj.seek(tar.offset)
    if member is not None or tar.fileobj.read(BLOCK) != bytes(BLOCK):
        left_out.add("shard ends early", printable(shard.name))


def _next(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
    try:
        return tar.next()
    except (tarfile.TarError, ValueError, OverflowError):
        return None  # a broken header: what follows is not zeros


def split(name: str) -> tuple[str, str]:
    """WebDataset's key and extension: ``a.b/cat.long.txt`` is ``a.b/cat`` and ``long.txt``."""
    folder, slash, last = name.rpartition("/")
    stem, dot, extension = last.partition(".")
    return (folder + slash + stem, extension.lower()) if stem and dot else ("", "")
