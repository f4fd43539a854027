"""How every source reads pictures and captions."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
from PIL import Image

from lidit_core.errors import first_line

from .formats import FORMATS

UNREADABLE, TOO_LARGE, MISSING = (0, 0), (-1, -1), (-2, -2)  # in place of a size
NO_CAPTION, EMPTY, NOT_UTF8, URL, TAGS = 0, -1, -2, -3, -4  # in place of a caption's length
CONTROLS = bytes(n for n in range(32) if chr(n) not in "\t\n\v\f\r\x1b")
IN_USE = re.compile(  # blocks of Unicode; but for U+0130, a comma of Chinese in the other order
    "[\\t\\n\\r -~\u00a0-\u012f\u0131-\u017f\u01a0-\u01b0\u0218-\u021b\u0370-\u06ff\u0900-\u0e7f"
    "\u1e00-\u1eff\u2010-\u203a\u3000-\u30ff\u4e00-\u9fff\uac00-\ud7a3\uff00-\uffef"
    "\U0001f300-\U0001faff]"
)
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
    """UTF-8, or UTF-16 by its mark, or by control characters, which a caption does not have.

    Without a mark the order of its bytes is the one that gives more letters in use: of Chinese
    and Japanese the bytes of either half look like control characters.
    """
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    controls = {
        order: len(half) - len(half.translate(None, CONTROLS))
        for order, half in (("utf-16-le", raw[1::2]), ("utf-16-be", raw[::2]))
    }
    if not any(controls.values()) or len(raw) % 2:
        return "utf-8-sig"
    return max(controls, key=lambda order: (_in_use(raw, order), controls[order]))


def _in_use(raw: bytes, encoding: str) -> int:
    """How many characters of these bytes are letters, signs and spaces that people write."""
    return len(IN_USE.findall(raw.decode(encoding, "ignore")))


def climbs(name: str) -> bool:
    """Whether a path, of this system or of another, is absolute or has a "..", or none at all."""
    parts = name.replace("\\", "/").split("/")
    return ".." in parts or not parts[0] or "\0" in name or bool(re.match("[A-Za-z]:", name))


def printable(name: str, most: int = 100) -> str:
    """A stranger's name for a log: no control characters, and not endless."""
    name = name if len(name) <= most else name[: most - 1] + "…"
    return name if name.isprintable() else ascii(name)[1:-1]
