"""Points with intervals as a picture in SVG, without a library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from .figures import Figure

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 300, 260, 48, 34, 44  # of a panel, pixels
COLOURS = ("#1b6ca8", "#c8502d", "#3f8f4f", "#8a4fa3", "#8a6d1d", "#555555")


@dataclass(frozen=True)
class Line:
    """Points of one name; a gap where there is none."""

    name: str
    points: Sequence[Figure | None]


@dataclass(frozen=True)
class Panel:
    title: str
    ticks: Sequence[str]  # under the points
    lines: Sequence[Line]
    joined: bool  # by a line from point to point


def svg(panels: Sequence[Panel]) -> str:
    """All panels side by side."""
    names = list(dict.fromkeys(line.name for panel in panels for line in panel.lines))
    width = WIDTH * len(panels)
    height = HEIGHT + 22
    drawn = [part for i, panel in enumerate(panels) for part in _panel(panel, i * WIDTH, names)]
    legend = [part for i, name in enumerate(names) for part in _legend(i, name)]
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>', *drawn, *legend, "</svg>", "",
    ])  # fmt: skip


def _legend(index: int, name: str) -> Iterator[str]:
    x, y = LEFT + 110 * index, HEIGHT + 12
    yield f'<circle cx="{x}" cy="{y - 4}" r="4" fill="{_colour(index)}"/>'
    yield _text(x + 9, y, name, "start")


def _panel(panel: Panel, left: int, names: Sequence[str]) -> Iterator[str]:
    low, high = _range(panel)
    right, bottom = left + WIDTH - 12, HEIGHT - BOTTOM

    def y_of(value: float) -> float:
        return bottom - (value - low) / (high - low) * (bottom - TOP)

    yield _text(left + LEFT, TOP - 14, panel.title, "start", 'font-weight="bold"')
    for value in (low, (low + high) / 2, high):
        yield _rule(left + LEFT, y_of(value), right, "#dddddd")
        yield _text(left + LEFT - 5, y_of(value) + 4, f"{value:.3g}", "end")
    if low < 0 < high:
        yield _rule(left + LEFT, y_of(0), right, "#888888")
    step = (right - left - LEFT) / max(1, len(panel.ticks))
    for number, tick in enumerate(panel.ticks):
        yield _text(left + LEFT + step * (number + 0.5), bottom + 16, tick, "middle")
    for line in panel.lines:
        colour = _colour(names.index(line.name))
        shift = (names.index(line.name) - (len(names) - 1) / 2) * 7
        places = [left + LEFT + step * (n + 0.5) + shift for n in range(len(line.points))]
        yield from _points(line, places, y_of, colour, panel.joined)


def _points(line: Line, places: Sequence[float], y_of, colour: str, joined: bool) -> Iterator[str]:
    there = [(x, p) for x, p in zip(places, line.points) if p is not None]
    if joined:
        path = " ".join(f"{x:.1f},{y_of(p.mean):.1f}" for x, p in there)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
    for x, point in there:
        yield (
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y_of(point.low):.1f}" '
            f'y2="{y_of(point.high):.1f}" stroke="{colour}" stroke-width="1.5"/>'
        )
        yield f'<circle cx="{x:.1f}" cy="{y_of(point.mean):.1f}" r="3.5" fill="{colour}"/>'


def _range(panel: Panel) -> tuple[float, float]:
    """The range that holds every interval, with a little more around."""
    found = [p for line in panel.lines for p in line.points if p is not None]
    low = min((p.low for p in found), default=0.0)
    high = max((p.high for p in found), default=1.0)
    room = 0.06 * (high - low) or 0.5
    return low - room, high + room


def _rule(left: float, y: float, right: float, colour: str) -> str:
    return f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="{colour}"/>'


def _text(x: float, y: float, words: str, anchor: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{escape(words)}</text>'


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]
