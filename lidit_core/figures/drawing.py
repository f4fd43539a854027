"""Heat maps and curves as pictures, (H, W, 3) uint8."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

LINE, GAP = 14, 12  # pixels of a line of text, and between panels
PAPER, INK, RULE = (255, 255, 255), (32, 32, 36), (216, 216, 216)
HIGH, LOW = (16, 62, 122), (176, 58, 28)  # of the largest value, and of -1
COLOURS = (
    (27, 108, 168),
    (200, 80, 45),
    (63, 143, 79),
    (138, 79, 163),
    (138, 109, 29),
    (85, 85, 85),
    (214, 120, 160),
    (40, 160, 160),
)
WHOLE, LARGEST = 420, 14  # pixels of a heat map at most where there is room, and of its cells
READABLE = 10  # pixels of a cell from which on a label has room
WIDE, HIGH_PANEL = 420, 220  # of curves


@dataclass(frozen=True, eq=False)
class HeatMap:
    """A matrix with a label for each row and column; -1 is red, 0 white, the largest blue."""

    title: str
    values: Tensor  # (L, L)
    labels: tuple[str, ...]
    root: bool = False  # colours show square roots, as small shares would be white


@dataclass(frozen=True, eq=False)
class Curve:
    name: str
    x: Sequence[float]
    y: Tensor


@dataclass(frozen=True, eq=False)
class Chart:
    title: str
    curves: Sequence[Curve]
    below: str  # what x is


def plain(text: str) -> str:
    """What the drawing font can write."""
    return text.encode("ascii", "replace").decode()


def font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(10)


def stacked(rows: Sequence[Sequence[Image.Image]]) -> Tensor:
    """Pictures in rows, one row below the other."""
    wide = max(sum(cell.width + GAP for cell in row) for row in rows) + GAP
    high = sum(max(cell.height for cell in row) + GAP for row in rows) + GAP
    sheet, y = Image.new("RGB", (wide, high), PAPER), GAP
    for row in rows:
        x = GAP
        for cell in row:
            sheet.paste(cell, (x, y))
            x += cell.width + GAP
        y += max(cell.height for cell in row) + GAP
    return torch.from_numpy(np.array(sheet))


def heat_map(panel: HeatMap) -> Image.Image:
    """Rows look at columns; a label has its token's number, as not every script can be drawn."""
    count, text = len(panel.labels), font()
    cell = max(2, min(LARGEST, WHOLE // max(count, 1)))
    named = [plain(f"{n} {label}".strip()) for n, label in enumerate(panel.labels, start=1)]
    room = int(max(text.getlength(name) for name in named)) + 4 if cell >= READABLE else 0
    side = cell * count
    wide = max(room + side, int(text.getlength(plain(panel.title))) + 1)
    image = Image.new("RGB", (wide, LINE + room + side), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((0, 0), plain(panel.title), fill=INK, font=text)
    cells = Image.fromarray(_coloured(panel)).resize((side, side), Image.Resampling.NEAREST)
    image.paste(cells, (room, LINE + room))
    for n, name in enumerate(named if room else ()):
        across = Image.new("RGB", (room, cell), PAPER)
        own = ImageDraw.Draw(across)
        own.text((room - 3 - text.getlength(name), (cell - 11) // 2), name, fill=INK, font=text)
        image.paste(across, (0, LINE + room + n * cell))
        along = Image.new("RGB", (room, cell), PAPER)
        ImageDraw.Draw(along).text((2, (cell - 11) // 2), name, fill=INK, font=text)
        image.paste(along.rotate(90, expand=True), (room + n * cell, LINE))
    return image


def _coloured(panel: HeatMap) -> np.ndarray:
    """Colour a panel's values, 0 white: (L, L, 3) uint8."""
    values = panel.values.float()
    share = values / values.max().clamp(min=1e-9)
    share = share.clamp(min=0).sqrt() if panel.root else share.clamp(-1, 1)
    ends = torch.where((share < 0)[..., None], torch.tensor(LOW), torch.tensor(HIGH)).float()
    mixed = 255 + (ends - 255) * share.abs()[..., None]
    return mixed.round().byte().numpy()


def chart(panel: Chart) -> Image.Image:
    """Curves over one axis, with their names beside them; the upright axis begins at 0."""
    text, left, top, bottom = font(), 40, LINE + 6, 2 * LINE + 4
    names = [plain(curve.name) for curve in panel.curves]
    legend = int(max(text.getlength(name) for name in names)) + 24
    image = Image.new("RGB", (left + WIDE + legend + GAP, HIGH_PANEL + bottom), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((0, 0), plain(panel.title), fill=INK, font=text)
    step = _step(max(float(curve.y.max()) for curve in panel.curves) or 1.0)
    largest = 4 * step

    def place(x: float, y: float) -> tuple[float, float]:
        return left + x * WIDE, HIGH_PANEL - y / largest * (HIGH_PANEL - top)

    for n in range(5):
        (x, y), told = place(0, n * step), f"{n * step:.4g}"
        draw.line([(x, y), place(1, n * step)], fill=RULE)
        draw.text((x - 4 - text.getlength(told), y - 6), told, fill=INK, font=text)
        draw.text((place(n / 4, 0)[0] - 6, HIGH_PANEL + 3), f"{n / 4:g}", fill=INK, font=text)
    draw.text((left, HIGH_PANEL + LINE + 3), plain(panel.below), fill=INK, font=text)
    for n, curve in enumerate(panel.curves):
        colour, y = COLOURS[n % len(COLOURS)], top + n * LINE
        points = [place(x, v) for x, v in zip(curve.x, curve.y.tolist(), strict=True)]
        draw.line(points, fill=colour, width=2)
        draw.line([(left + WIDE + 8, y + 6), (left + WIDE + 18, y + 6)], fill=colour, width=2)
        draw.text((left + WIDE + 22, y), names[n], fill=INK, font=text)
    return image


def _step(largest: float) -> float:
    """The least round number of which four reach the largest value."""
    power = 10.0 ** math.floor(math.log10(largest / 4))
    round_ones = (n * power for n in (1, 1.5, 2, 2.5, 3, 4, 5, 7.5, 10, 20))
    return next(step for step in round_ones if 4 * step >= largest)
