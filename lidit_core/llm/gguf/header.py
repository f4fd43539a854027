"""A GGUF file's own words: its metadata and where its tensors lie. Standard library only."""

from __future__ import annotations

import functools
import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from ...errors import LiDiTError, check

MAGIC = b"GGUF"
SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)  # as llama.cpp names splits
NUMBERS = {  # the format's numbers of types, as `struct` writes them
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
TEXT, LIST = 8, 9
MOST = 1 << 26  # entries of a list, letters of a text, tensors: more is a damaged file
SHORT = 64  # of a list, entries that `brief` reads


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a GGUF file."""

    name: str
    shape: tuple[int, ...]  # as PyTorch writes it: the reverse of the file's
    kind: int  # ggml's number of its type
    offset: int  # bytes from the file's beginning
    file: Path

    @property
    def count(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """What one GGUF, perhaps split over files, says before its tensors."""

    fields: dict = field(default_factory=dict)
    tensors: dict[str, TensorInfo] = field(default_factory=dict)

    @property
    def architecture(self) -> str:
        return str(self.fields.get("general.architecture", ""))

    def own(self) -> dict:
        """The metadata of its architecture, without the architecture's name before each key."""
        start = self.architecture + "."
        return {k[len(start) :]: v for k, v in self.fields.items() if k.startswith(start)}


def read_header(path: Path, brief: bool = False) -> Header:
    """The header of one file.

    Args:
        brief: leave out long lists, which are those of a tokenizer.

    Raises:
        LiDiTError: it is no GGUF, or cut short.
    """
    try:
        with path.open("rb") as file:
            return _Reader(file, path, brief).header()
    except (struct.error, UnicodeDecodeError, OverflowError, MemoryError, KeyError) as error:
        raise LiDiTError(
            f"GGUF file {path.name} cannot be read ({type(error).__name__}); it is cut short or "
            "damaged, so get it again"
        ) from error


class _Reader:
    def __init__(self, file: BinaryIO, path: Path, brief: bool) -> None:
        self.file, self.path, self.brief = file, path, brief

    def header(self) -> Header:
        magic = self.file.read(4)
        if magic != MAGIC:
            raise LiDiTError(f"{self.path} begins with {magic!r}, not b'GGUF'; give a GGUF file")
        version, tensors, fields = self.numbers("IQQ")
        check(
            version in (2, 3),
            f"GGUF file {self.path.name} is of version {version}, cut short or of another byte "
            "order; expected version 2 or 3, so get it again",
        )
        self.plausible(tensors, fields)
        found = {}
        for _ in range(fields):
            name = self.text()
            found[name] = self.value(*self.numbers("I"))
        return Header(found, self.tensors(tensors, found))

    def plausible(self, *counts: int) -> None:
        if max(counts) > MOST:
            raise LiDiTError(
                f"GGUF file {self.path.name} speaks of {max(counts)} entries; it is damaged, so "
                "get it again"
            )

    def numbers(self, kinds: str) -> tuple:
        kinds = "<" + kinds
        return struct.unpack(kinds, self.file.read(struct.calcsize(kinds)))

    def text(self) -> str:
        (length,) = self.numbers("Q")
        self.plausible(length)
        data = self.file.read(length)
        if len(data) < length:
            raise struct.error
        return data.decode("utf-8", "replace")

    def value(self, kind: int):
        if kind == TEXT:
            return self.text()
        if kind != LIST:
            return self.numbers(NUMBERS[kind])[0]
        inner, count = self.numbers("IQ")
        self.plausible(count)
        if inner in NUMBERS:
            return self.many(NUMBERS[inner], count)
        if self.brief and count > SHORT:
            for _ in range(count):
                self.file.seek(self.numbers("Q")[0], 1)
            return []
        return [self.value(inner) for _ in range(count)]

    def many(self, kind: str, count: int) -> list:
        if self.brief and count > SHORT * 1024:
            self.file.seek(count * struct.calcsize("<" + kind), 1)
            return []
        return list(self.numbers(f"{count}{kind}"))

    def tensors(self, count: int, fields: dict) -> dict[str, TensorInfo]:
        listed = []
        for _ in range(count):
            name, (dimensions,) = self.text(), self.numbers("I")
            self.plausible(dimensions << 16)
            shape = tuple(reversed(self.numbers(f"{dimensions}Q")))
            listed.append((name, shape, *self.numbers("IQ")))
        grain = fields.get("general.alignment") or 32
        start = -(-self.file.tell() // grain) * grain
        return {n: TensorInfo(n, s, k, start + offset, self.path) for n, s, k, offset in listed}


def joined_header(files: Sequence[Path], brief: bool = False) -> Header:
    """The header of a GGUF that may be split over files: the first one's metadata, all tensors."""
    headers = [read_header(file, brief) for file in files]
    tensors = {name: info for header in headers for name, info in header.tensors.items()}
    twice = sum(len(header.tensors) for header in headers) - len(tensors)
    check(
        not twice,
        f"{files[0].name} and its splits hold {twice} tensors twice; expected the splits of one "
        "LLM, so get them again",
    )
    return Header(headers[0].fields, tensors)


@functools.lru_cache(maxsize=256)
def _architecture(path: Path, size: int, mtime_ns: int) -> str | None:
    try:
        return read_header(path, brief=True).architecture
    except (LiDiTError, OSError):
        return None


def architecture(path: Path) -> str | None:
    """What a GGUF file says it is, read once a version of it; None where it says nothing."""
    stat = path.stat()
    return _architecture(path, stat.st_size, stat.st_mtime_ns)


def split_files(path: Path) -> tuple[str, tuple[Path, ...]]:
    """The stem and all files, in order, of the GGUF that a file is or is a split of.

    Raises:
        LiDiTError: a split lacks.
    """
    found = SPLIT.search(path.name)
    if not found or int(found[2]) == 0:  # no split: nothing is one of none
        return path.stem, (path,)
    stem, count = path.name[: found.start()], int(found[2])
    check(count <= 10_000, f"{path.name} is one of {count} splits; expected at most 10000")
    files = [path.with_name(f"{stem}-{i:05}-of-{count:05}.gguf") for i in range(1, count + 1)]
    missing = [file.name for file in files if not file.is_file()]
    check(
        not missing,
        f"{path.name} is one of {count} splits of an LLM and {len(missing)} lack in {path.parent}, "
        f"the first {missing[0] if missing else ''}; put all of them there",
    )
    return stem, tuple(files)


def later_split(path: Path) -> bool:
    """Whether a file is a split of a GGUF, and not its first."""
    found = SPLIT.search(path.name)
    return bool(found) and int(found[1]) > 1
