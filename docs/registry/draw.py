"""Draws the pack's icon and banner for the Comfy registry: python docs/registry/draw.py

Words on the left are dots in a row, which look at each other by arcs; what they say together is the
picture on the right.
"""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).resolve().parent
NIGHT, SKY, HILL, SUN, INK = "#20202a", "#3f789e", "#3f9e5a", "#f2c14e", "#f4f1ea"
TOKENS = (INK, SUN, "#e4572e", INK)


def svg(width: int, height: int, body: list[str]) -> str:
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    lines = "\n".join(f"  {line}" for line in body)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n{lines}\n</svg>\n'


def tokens(x: int, y: int, step: int) -> list[str]:
    """Four dots in a column, and an arc from each to all that stand after it."""
    arcs = [
        f'<path d="M{x} {y + i * step} C{x - bend} {y + i * step} {x - bend} {y + j * step} '
        f'{x} {y + j * step}" fill="none" stroke="{INK}" stroke-opacity="0.45" stroke-width="4"/>'
        for i in range(4)
        for j in range(i + 1, 4)
        for bend in [step * (j - i) // 2]
    ]
    dots = [
        f'<circle cx="{x}" cy="{y + i * step}" r="{step // 4}" fill="{colour}"/>'
        for i, colour in enumerate(TOKENS)
    ]
    return arcs + dots


def picture(x: int, y: int, side: int) -> list[str]:
    """A frame with a sun above two hills."""
    low, mid = y + side, x + side // 2
    frame = f'x="{x}" y="{y}" width="{side}" height="{side}" rx="{side // 10}"'
    return [
        f'<clipPath id="frame"><rect {frame}/></clipPath>',
        f'<g clip-path="url(#frame)"><rect {frame} fill="{SKY}"/>',
        f'<circle cx="{x + side * 2 // 3}" cy="{y + side // 3}" r="{side // 7}" fill="{SUN}"/>',
        f'<ellipse cx="{x + side // 4}" cy="{low}" rx="{side // 2}" ry="{side // 3}" '
        f'fill="{HILL}"/>',
        f'<ellipse cx="{mid + side // 3}" cy="{low}" rx="{side // 2}" ry="{side // 4}" '
        'fill="#2f7d46"/></g>',
        f'<rect {frame} fill="none" stroke="{INK}" stroke-width="6"/>',
    ]


def icon() -> str:
    ground = f'<rect width="400" height="400" rx="72" fill="{NIGHT}"/>'
    return svg(400, 400, [ground, *tokens(120, 95, 70), *picture(190, 112, 176)])


def banner() -> str:
    """21:9, as the registry shows it."""
    font = 'font-family="sans-serif"'
    words = [
        f'<text x="470" y="195" {font} font-size="92" fill="{INK}">LI-DiT</text>',
        f'<text x="470" y="255" {font} font-size="34" fill="{INK}">prompts, read by any LLM</text>',
    ]
    ground = f'<rect width="980" height="420" fill="{NIGHT}"/>'
    return svg(980, 420, [ground, *tokens(130, 90, 80), *picture(200, 106, 208), *words])


DRAWINGS = {"icon.svg": icon, "banner.svg": banner}

if __name__ == "__main__":
    for name, draw in DRAWINGS.items():
        (HERE / name).write_text(draw(), encoding="utf-8")
