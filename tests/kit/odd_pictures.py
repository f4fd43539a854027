"""Picture files for the tests of sources: ordinary ones, and those that a stranger may send."""

from __future__ import annotations

import io
import struct
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def saved(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def plain(width: int = 48, height: int = 40, colour=(200, 30, 60), kind: str = "PNG") -> bytes:
    return saved(Image.new("RGB", (width, height), colour), kind)


def noisy(width: int = 64, height: int = 64) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def bomb(side: int) -> bytes:
    """A PNG of some hundred bytes whose header says that it is huge."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


def turned(orientation: int, kind: str = "JPEG") -> bytes:
    """64 x 40, the left half red and the right half blue before it is turned upright."""
    picture = Image.new("RGB", (64, 40), (255, 0, 0))
    picture.paste((0, 0, 255), (32, 0, 64, 40))
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(picture, kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))


def write(folder: Path, files: Mapping[str, bytes | str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def write_tar(path: Path, files: Mapping[str, bytes | str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            content = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def data_of(*sources, **fields):
    from lidit_train.recipe import Data, Source  # here: a worker of a test has no need of torch

    return Data(sources=sources or (Source("folder", "."),), **fields)


def everything(source) -> list[tuple]:
    """All that a source gives, to compare with what another gives."""
    return [
        (
            source.key(i),
            tuple(source.captions(i)),
            tuple(source.sizes[i].tolist()),
            source.picture(i, (0, 0)).tobytes(),
        )
        for i in range(len(source.sizes))
    ]
