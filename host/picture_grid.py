"""Pictures side by side in one, each below its label."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..lidit_core.errors import LiDiTError

SIDE = 256  # pixels that a smaller picture is enlarged to, by a whole number
GAP, LINE = 12, 18  # pixels between pictures, and of a label's line
PAPER, INK = (255, 255, 255), (32, 32, 36)


def labelled_grid(pictures: list[Tensor], labels: list[str], columns: int) -> Tensor:
    """One picture with all of them in rows.

    Args:
        pictures: each (H, W, 3), in [0, 1].
        labels: one a picture, of one or more lines.
        columns: pictures in a row.

    Returns:
        (1, H', W', 3), in [0, 1].

    Raises:
        LiDiTError: there is no picture, or not one label for each.
    """
    if not pictures or len(pictures) != len(labels):
        raise LiDiTError(
            f"there are {len(pictures)} pictures and {len(labels)} labels; connect as many labels "
            "as pictures, both lists of the same grid"
        )
    cells = [_cell(picture, label) for picture, label in zip(pictures, labels, strict=True)]
    width, height = (max(cell.size[i] for cell in cells) + GAP for i in (0, 1))
    columns = min(columns, len(cells))
    rows = -(-len(cells) // columns)
    sheet = Image.new("RGB", (GAP + columns * width, GAP + rows * height), PAPER)
    for i, cell in enumerate(cells):
        row, column = divmod(i, columns)
        sheet.paste(cell, (GAP + column * width, GAP + row * height))
    return torch.from_numpy(np.asarray(sheet).copy()).float().div(255).unsqueeze(0)


def _cell(picture: Tensor, label: str) -> Image.Image:
    """A picture below its label."""
    array = picture[..., :3].clamp(0, 1).mul(255).round().byte().cpu().numpy()
    image = Image.fromarray(array)
    times = max(1, round(SIDE / max(image.size)))
    image = image.resize((image.width * times, image.height * times), Image.Resampling.LANCZOS)
    lines = label.splitlines()
    cell = Image.new("RGB", (image.width, image.height + LINE * len(lines) + 4), PAPER)
    draw, font = ImageDraw.Draw(cell), ImageFont.load_default(14)
    for i, line in enumerate(lines):
        draw.text((0, i * LINE), line, fill=INK, font=font)
    cell.paste(image, (0, LINE * len(lines) + 4))
    return cell
