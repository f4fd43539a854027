"""How every source reads pictures and captions, and which of them it leaves out."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image

from lidit_core.errors import first_line

from . import TAG_LIST, WITH_URL
from .formats import FORMATS

if TYPE_CHECKING:
    from ...recipe import Data  # which loads torch: processes that only read pictures go without

UNREADABLE, TOO_LARGE, MISSING = (0, 0), (-1, -1), (-2, -2)  # in place of a size
NO_CAPTION, EMPTY, NOT_UTF8, URL, TAGS = 0, -1, -2, -3, -4  # in place of a caption's length
CONTROLS = bytes(n for n in range(32) if chr(n) not in "\t\n\v\f\r\x1b")
LEAVES = "has a path that leaves its folder"
_TURNS = {  # EXIF's orientation: how the pixels are brought upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def header_size(file: Path | IO[bytes]) -> tuple[int, int]:
    """Width and height of the upright picture, from its header alone.

    ``UNREADABLE``, or ``TOO_LARGE`` where Pillow takes the size for a decompression bomb.
    """
    try:
        with Image.open(file, formats=FORMATS) as picture:
            width, height = picture.size
            return (height, width) if _orientation(picture) >= 5 else (width, height)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return TOO_LARGE
    except Exception:  # Pillow raises nearly anything for a header that was made to break it
        return UNREADABLE


def open_picture(file: Path | BinaryIO, name: str) -> Image.Image:
    """The whole picture, upright, RGB, on white where it is transparent; of a GIF the first frame.

    Raises:
        OSError: it cannot be decoded to its end; names it.
    """
    return opened(file, name, to_rgb)


def opened(
    file: Path | BinaryIO, name: str, convert: Callable[[Image.Image], Image.Image]
) -> Image.Image:
    """What a function makes of the whole picture, upright.

    Raises:
        OSError: it cannot be decoded to its end; names it.
    """
    try:
        with Image.open(file, formats=FORMATS) as picture:
            turn = _TURNS.get(_orientation(picture))
            picture.load()
            made = convert(picture)
        return made if turn is None else made.transpose(turn)
    except Exception as error:  # broken data raises SyntaxError, struct.error, zlib.error, ...
        raise OSError(f"{name} cannot be decoded ({first_line(error)})") from error


def to_rgb(picture: Image.Image, ground: str = "white") -> Image.Image:
    """RGB of a picture in any mode: 16 bits become 8, what is transparent shows the ground."""
    if picture.mode.startswith("I"):
        picture = _eight_bits(picture)
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, ground), picture)
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Grey of 16 bits, which Pillow's own conversion clips rather than scales."""
    grey = np.clip(np.asarray(picture).astype(np.int64), 0, 65535)
    return Image.fromarray(((grey + 128) // 257).astype(np.uint8))


def _orientation(picture: Image.Image) -> int:
    """EXIF's orientation, 1 to 8, from what stands before the pixels.

    ``PngImageFile.getexif`` would decode the whole picture in search of a chunk behind them.
    """
    try:
        return int(Image.Image.getexif(picture).get(0x0112, 1))
    except Exception:  # of a broken EXIF block, as of a broken header
        return 1


def read_caption(raw: bytes | str | None) -> tuple[str, int]:
    """A caption without the space around it, and its length, or why there is none."""
    if raw is None:
        return "", NO_CAPTION
    try:
        text = raw.decode(_encoding(raw)) if isinstance(raw, bytes) else raw
        text.encode()  # JSON can escape half a surrogate pair, which no tokenizer takes
    except UnicodeError:
        return "", NOT_UTF8
    text = text.strip()
    return text, len(text) or EMPTY


def _encoding(raw: bytes) -> str:
    """UTF-8, or UTF-16 by its mark, or by control characters, which a caption does not have."""
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    first, second = (
        len(half) - len(half.translate(None, CONTROLS)) for half in (raw[::2], raw[1::2])
    )
    if first == second or len(raw) % 2:
        return "utf-8-sig"
    return "utf-16-le" if second > first else "utf-16-be"


def climbs(name: str) -> bool:
    """Whether a path, of this system or of another, is absolute or has a "..", or none at all."""
    parts = name.replace("\\", "/").split("/")
    return ".." in parts or not parts[0] or "\0" in name or bool(re.match("[A-Za-z]:", name))


def faults(
    sizes: np.ndarray, lengths: np.ndarray, data: Data, places: str, filtered: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Which pictures are left out, by reason; a picture has one reason, or none.

    Args:
        sizes: (N, 2) width and height, or what stands in their place.
        lengths: (N, K) of each picture's captions, or what stands in their place.
        places: where captions were looked for.
        filtered: of each picture the reason of the source's filters, or ""; () = of none.
    Returns:
        Of each reason (N,) bool.
    """
    short, long = np.sort(sizes.astype(np.int64), axis=1).T
    most, limit = Image.MAX_IMAGE_PIXELS or np.inf, data.buckets.limit
    wordless, worst = lengths.max(axis=1) <= 0, lengths.min(axis=1)
    found = {
        "is not there": short == MISSING[0],
        "cannot be read": short == UNREADABLE[0],
        f"is larger than {most} pixels": (short == TOO_LARGE[0]) | (short * long > most),
        f"has a side shorter than {data.smallest} pixels": short < data.smallest,
        f"is longer than {limit:g} times its shorter side": long > limit * short,
        "has a caption that is neither UTF-8 nor UTF-16": wordless & (worst == NOT_UTF8),
        "has an empty caption": wordless & (worst == EMPTY),
        f"has a caption {WITH_URL}": wordless & (worst == URL),
        f"has a caption {TAG_LIST}": wordless & (worst == TAGS),
        f"has no caption (looked for {places})": wordless & (worst == NO_CAPTION),
    }
    for reason in dict.fromkeys(reason for reason in filtered if reason):
        found[reason] = np.array([other == reason for other in filtered])
    told = np.zeros(len(sizes), bool)
    for reason, mask in found.items():
        found[reason] = mask & ~told
        told |= mask
    return found


def printable(name: str, most: int = 100) -> str:
    """A stranger's name for a log: no control characters, and not endless."""
    name = name if len(name) <= most else name[: most - 1] + "…"
    return name if name.isprintable() else ascii(name)[1:-1]
