"""Masks of pictures: which parts the loss counts, from 0 (black) to 255 (white).

A mask is the picture's own alpha channel, or a picture beside it, which may be smaller or larger
but has its shape. It is scaled and cut as the picture is.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, BinaryIO

from PIL import Image

from .formats import FORMATS
from .reading import UNREADABLE, opened, to_rgb

ALPHA = "alpha"  # a source's mask: the picture's own alpha channel
UNLIKE = 0.02  # by which the ratios of sides of a picture and its mask may differ; half a pixel may
Size = tuple[int, int]  # width, height
ENDINGS = ".-_"  # one of which stands before a mask's ending that is no extension


def open_mask(file: Path | BinaryIO, name: str) -> Image.Image:
    """The mask in a file, upright and grey; what is transparent in it is black.

    Raises:
        OSError: it cannot be decoded to its end; names it.
    """
    return opened(file, name, lambda picture: to_rgb(picture, "black").convert("L"))


def open_alpha(file: Path | BinaryIO, name: str) -> Image.Image:
    """The alpha channel of a picture, upright and grey; white where it has none.

    Raises:
        OSError: as `open_mask`.
    """
    return opened(file, name, _alpha)


def _alpha(picture: Image.Image) -> Image.Image:
    if has_alpha(picture):
        return picture.convert("RGBA").getchannel("A")
    return Image.new("L", picture.size, 255)


def has_alpha(picture: Image.Image) -> bool:
    """Whether a picture may be transparent, from its header."""
    return picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info


def header_has_alpha(file: Path | IO[bytes]) -> bool:
    """The same of a file; False of one that cannot be read."""
    try:
        with Image.open(file, formats=FORMATS) as picture:
            return has_alpha(picture)
    except Exception:  # as of `header_size`, which leaves it out
        return False


def mask_fault(picture: Size, mask: Size) -> str:
    """The reason to leave out a picture for its mask's width and height; "" where there is none."""
    if mask[0] <= 0:
        return "has a mask that cannot be read" if mask == UNREADABLE else "has a mask too large"
    if picture[0] <= 0:
        return ""  # which leaves it out by itself
    width = picture[0] * mask[1] / picture[1]  # that the mask would have
    like = abs(mask[0] - width) <= max(1.0, UNLIKE * width)
    return "" if like else "has a mask of another shape"


def mask_of(picture: str, mask: str) -> str:
    """The path of a picture's mask: ``mask.png`` is ``cat.mask.png``, ``-mask.png`` as it is.

    Args:
        picture: its path.
        mask: as the source names masks.
    """
    stem = picture.rpartition(".")[0]
    return stem + mask if mask[0] in ENDINGS else f"{stem}.{mask}"


def is_mask(name: str, mask: str) -> bool:
    """Whether a file of this name is a mask, as the source names masks, and no picture itself."""
    return mask not in ("", ALPHA) and name.endswith(mask_of(".", mask))
