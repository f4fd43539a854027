"""Formats of files: those that are pictures, those that are read, and the places of captions."""

from __future__ import annotations

from collections.abc import Mapping

from PIL import Image, features

# A stranger's file meets no other decoder: of what Pillow reads those that hold one raster picture.
WANTED = (
    "PNG",
    "JPEG",
    "WEBP",
    "BMP",
    "DIB",
    "GIF",
    "TIFF",
    "AVIF",
    "JPEG2000",
    "PPM",
    "TGA",
    "QOI",
)
NOT_READ = (  # by any Pillow without a plugin
    (".heic", ".heif", ".hif", ".jxl", ".svg", ".psd", ".exr", ".hdr", ".cr2", ".cr3", ".nef")
    + (".arw", ".dng", ".orf", ".rw2", ".raf")
)
CAPTIONS = ("txt", "caption", "cap", "text")  # where a recipe names no extension, in this order
BY_DEFAULT = {"txt": 1.0}  # a recipe's captions


def _read() -> tuple[tuple[str, ...], frozenset[str]]:
    """Pillow's names of the formats that this one reads, and their extensions with the dot."""
    Image.init()
    missing = {"AVIF": "avif", "WEBP": "webp", "JPEG2000": "jpg_2000"}
    there = [name for name in WANTED if name in Image.OPEN]
    there = [name for name in there if name not in missing or features.check(missing[name])]
    known = Image.registered_extensions()
    return tuple(there), frozenset(end for end, name in known.items() if name in there)


FORMATS, EXTENSIONS = _read()


def is_picture(extension: str) -> bool:
    """Whether files of this extension, lower case and with its dot, are read as pictures."""
    return extension in EXTENSIONS


def unread_format(extension: str) -> str:
    """The reason to leave out a picture of this extension; "" where it is none, or is read."""
    if is_picture(extension) or extension not in (*NOT_READ, ".avif", ".webp", ".jp2"):
        return ""
    return f"is a {extension} file, which is not read; convert it to PNG, JPEG or WebP"


def sought(captions: Mapping[str, float]) -> list[tuple[str, ...]]:
    """The extensions under which each caption of a recipe is looked for, in their order."""
    if dict(captions) == BY_DEFAULT:
        return [CAPTIONS]
    return [(extension,) for extension in captions]


def places(captions: Mapping[str, float]) -> str:
    """The same for a sentence: ".txt, .caption, .cap and .text"."""
    *rest, last = [f".{extension}" for several in sought(captions) for extension in several]
    return f"{', '.join(rest)} and {last}" if rest else last
