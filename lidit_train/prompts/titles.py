"""Titles of pictures, from the SVG files of Open Clip Art, which are in the public domain (CC0)."""

from __future__ import annotations

import re
from pathlib import Path

from lidit_core.errors import check

TITLE = re.compile(r"<dc:title>\s*([^<]{3,60}?)\s*</dc:title>")
WORDS = re.compile(r"[A-Za-z]{3,}(?:[ -][A-Za-z]{2,}){0,5}")
HEAD = 1 << 16  # bytes of a file in which its title is looked for, from its end and beginning


def titles(folder: str | Path) -> list[str]:
    """Each title below a folder once, in lower case and in order.

    Raises:
        LiDiTError: no SVG file there has one.
    """
    found = {title for path in sorted(Path(folder).rglob("*.svg")) for title in _of(path)}
    check(
        bool(found),
        f"no SVG file below {folder} has a title; expected Open Clip Art's pictures, as Debian's "
        "openclipart-svg has them in /usr/share/openclipart/svg",
    )
    return sorted(found)


def _of(path: Path) -> list[str]:
    text = path.read_bytes()
    ends = (text[:HEAD] + b"\n" + text[-HEAD:]).decode("utf-8", "replace")
    plain = (title.replace("_", " ").lower() for title in TITLE.findall(ends)[:1])
    return [title for title in plain if WORDS.fullmatch(title)]
