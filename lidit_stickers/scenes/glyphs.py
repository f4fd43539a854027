"""Glyphs of the Noto colour emoji font: cropped, recoloured and resized pictures of each kind."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lidit_core.errors import LiDiTError

from .kinds import COLOURS, KNOWN_KINDS

FONT_NAME = "NotoColorEmoji.ttf"
FONT_SIZE = 109  # the one size of this bitmap font, pixels
FONT_FOLDERS = (
    "/usr/share/fonts/truetype/noto",
    "/usr/share/fonts/noto",
    "/usr/share/fonts/google-noto-emoji",
    "/usr/share/fonts/google-noto-color-emoji-fonts",
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.local/share/fonts",
    "~/.fonts",
    "~/Library/Fonts",
    "/Library/Fonts",
)
_HUE_WINDOW = 0.09  # pixels this near to the dominant hue are recoloured


def find_font() -> Path:
    """The emoji font: `LIDIT_EMOJI_FONT` if set, else the first of the usual places.

    Raises:
        LiDiTError: there is none; the message names the Debian package.
    """
    named = os.environ.get("LIDIT_EMOJI_FONT")
    places = [Path(named)] if named else [Path(f, FONT_NAME).expanduser() for f in FONT_FOLDERS]
    for place in places:
        if place.is_file():
            return place
    raise LiDiTError(
        f"no emoji font at {', '.join(map(str, places))}: expected {FONT_NAME}; install the Debian "
        "package fonts-noto-color-emoji or point LIDIT_EMOJI_FONT to the file"
    )


@lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(find_font()), FONT_SIZE)


def draw_emoji(emoji: str) -> Image.Image:
    """One emoji as RGBA at the font's own size, cropped to what is visible."""
    canvas = Image.new("RGBA", (FONT_SIZE * 2, FONT_SIZE * 2))
    ImageDraw.Draw(canvas).text((20, 20), emoji, font=_font(), embedded_color=True)
    return canvas.crop(canvas.getchannel("A").point([255 * (a > 24) for a in range(256)]).getbbox())


@lru_cache(maxsize=None)
def glyph(kind: str, colour: str | None = None) -> Image.Image:
    """The RGBA glyph of a kind at the font's own size, cropped to what is visible.

    Raises:
        LiDiTError: the kind cannot be drawn in that colour.
    """
    record = KNOWN_KINDS[kind]
    if colour is not None and colour not in record.colours:
        raise LiDiTError(
            f"a {colour} {record.name} is not drawn: expected {record.colours or 'no colour'}; "
            "leave the colour out or ask for one of these"
        )
    picture = draw_emoji(record.emoji)
    if colour is None or colour == record.natural:
        return picture
    return recolour(picture, colour)


def recolour(picture: Image.Image, colour: str) -> Image.Image:
    """The dominant hue of an RGBA picture is turned to `colour`; its shading is kept."""
    alpha = picture.getchannel("A")
    hsv = np.asarray(picture.convert("RGB").convert("HSV"), np.float32) / 255
    hue, saturation, value = hsv[..., 0], hsv[..., 1], hsv[..., 2]
    vivid = (saturation > 0.35) & (value > 0.2) & (np.asarray(alpha) > 128)
    weight = (saturation * value)[vivid]
    histogram = np.histogram(hue[vivid], bins=48, range=(0, 1), weights=weight)[0]
    smooth = histogram + np.roll(histogram, 1) + np.roll(histogram, -1)
    peak = (smooth.argmax() + 0.5) / 48
    offset = (hue - peak + 0.5) % 1 - 0.5  # signed hue distance from the dominant hue
    body = (np.abs(offset) < _HUE_WINDOW) & (saturation > 0.3)
    target = COLOURS[colour]
    medians = [float(np.median(c[body & vivid])) for c in (saturation, value)]
    new = np.stack(
        [
            (target[0] + 0.25 * offset) % 1,
            np.clip(saturation * (target[1] / medians[0]), 0, 1),
            np.clip(target[2] * (value / medians[1]) ** 0.9, 0, 1),
        ],
        axis=-1,
    )
    strength = np.clip((_HUE_WINDOW - np.abs(offset)) / 0.03, 0, 1) * np.clip(
        (saturation - 0.25) / 0.15, 0, 1
    )
    mixed = _rgb(new) * strength[..., None] + _rgb(hsv) * (1 - strength[..., None])
    out = Image.fromarray(np.rint(mixed).astype(np.uint8))
    out.putalpha(alpha)
    return out


def _rgb(hsv: np.ndarray) -> np.ndarray:
    """Turn HSV (H, W, 3) in [0, 1] into float RGB (H, W, 3) in [0, 255]."""
    eight = np.rint(hsv * 255).astype(np.uint8)
    return np.asarray(Image.fromarray(eight, "HSV").convert("RGB"), np.float32)


@lru_cache(maxsize=8192)
def sized_glyph(kind: str, colour: str | None, side: int) -> Image.Image:
    """The RGBA glyph with its longer side at `side` pixels (aspect ratio kept)."""
    picture = glyph(kind, colour)
    scale = side / max(picture.size)
    width, height = (max(1, round(length * scale)) for length in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def aspect(kind: str) -> float:
    """Width / height of the glyph."""
    width, height = glyph(kind).size
    return width / height
