"""Sheets of pictures with labels, on which the failures are marked."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CELL, LABEL, FRAME = 128, 52, 4  # picture side, height of the text under it, frame; pixels
FAILED = (220, 30, 30)
LINES, LETTERS = 4, 25  # of a label


def grid(
    pictures: Sequence[np.ndarray],
    labels: Sequence[str],
    failed: Sequence[bool] | None = None,
    columns: int = 8,
) -> Image.Image:
    """Lay out pictures in rows, each with its label underneath.

    Args:
        pictures: (H, W, 3) uint8 each, shown as squares.
        failed: which are framed in red; None = none.
    """
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (CELL + 4), rows * (CELL + LABEL + 4)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    marks = failed or [False] * len(pictures)
    for i, (picture, label, mark) in enumerate(zip(pictures, labels, marks, strict=True)):
        x, y = i % columns * (CELL + 4), i // columns * (CELL + LABEL + 4)
        sheet.paste(Image.fromarray(picture).resize((CELL, CELL)), (x, y))
        if mark:
            draw.rectangle((x, y, x + CELL - 1, y + CELL - 1), outline=FAILED, width=FRAME)
        lines = [part for line in label.split("\n") for part in textwrap.wrap(line, LETTERS)]
        draw.multiline_text((x + 1, y + CELL + 1), "\n".join(lines[:LINES]), "black", font, None, 1)
    return sheet
