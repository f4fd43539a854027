"""Tables that commands write into documents, at places that the documents mark by a name:

<!-- scores: fixed -->
<!-- end of scores -->
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from lidit_core.errors import LiDiTError
from lidit_core.io.atomic import replacing

BLOCK = re.compile(r"(<!-- scores: (\w+) -->\n).*?(<!-- end of scores -->)", re.DOTALL)


def read(document: Path, tables: Sequence[str]) -> str:
    """The text of a document that marks places for some of the tables.

    Raises:
        LiDiTError: it cannot be read, or marks none, or one of another name.
    """
    try:
        text = document.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LiDiTError(f"{document} cannot be read ({error}); expected a document") from error
    marked = [name for _, name, _ in BLOCK.findall(text)]
    if not marked or not set(marked) <= set(tables):
        raise LiDiTError(
            f"{document} marks {', '.join(marked) or 'no table'}; expected `<!-- scores: NAME -->` "
            f"and `<!-- end of scores -->`, NAME one of {', '.join(tables)}"
        )
    return text


def write(document: Path, made: Mapping[str, str]) -> None:
    """Put tables in Markdown, by their names, in the places that a document marks, see `read`."""
    text = read(document, tuple(made))
    text = BLOCK.sub(lambda found: found[1] + made[found[2]] + found[3], text)
    with replacing(document) as beside:
        beside.write_text(text, encoding="utf-8")
