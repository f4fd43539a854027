"""Tables that commands write into documents, at places that the documents mark by a name:

<!-- scores: fixed -->
<!-- end of scores -->
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from lidit_core.errors import LiDiTError, check
from lidit_core.io.atomic import replacing

from ..evaluation import PER_CATEGORY

SCORES = "scores"  # the kind of table that is drawn and judged by its own command


def block(kind: str) -> re.Pattern[str]:
    """What finds each place for tables of a kind, with its beginning, its name and its end."""
    return re.compile(rf"(<!-- {kind}: (\w+) -->\n).*?(<!-- end of {kind} -->)", re.DOTALL)


BLOCK = block(SCORES)


def options_of(
    description: str | None, tables: Sequence[str], arguments: Sequence[str] | None
) -> argparse.Namespace:
    """Options of a command that draws, judges and writes tables: `out`, `write` and `every`.

    Raises:
        LiDiTError: a number or a document is wrong, which is told before anything is drawn.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the evaluations")
    parser.add_argument("--write", type=Path, nargs="*", default=[], help="documents with tables")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every Nth prompt")
    options = parser.parse_args(arguments)
    check(
        1 <= options.every <= PER_CATEGORY,
        f"--every is {options.every}; expected 1 to {PER_CATEGORY}, so that every category has a "
        "prompt",
    )
    for document in options.write:
        read(document, tables)
    return options


def read(document: Path, tables: Sequence[str], kind: str = SCORES) -> str:
    """The text of a document that marks places for some of the tables.

    Raises:
        LiDiTError: it cannot be read, or marks none, or one of another name.
    """
    try:
        text = document.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LiDiTError(f"{document} cannot be read ({error}); expected a document") from error
    marked = [name for _, name, _ in block(kind).findall(text)]
    if not marked or not set(marked) <= set(tables):
        raise LiDiTError(
            f"{document} marks {', '.join(marked) or 'no table'}; expected `<!-- {kind}: NAME -->` "
            f"and `<!-- end of {kind} -->`, NAME one of {', '.join(tables)}"
        )
    return text


def write(
    document: Path, made: Mapping[str, str], kind: str = SCORES, later: Sequence[str] = ()
) -> list[str]:
    """Put tables in Markdown, by their names, in the places that a document marks, see `read`.

    Args:
        later: tables that are not made yet, whose places stay as they are.
    Returns:
        The names of the tables that were put in.
    """
    text, filled = read(document, (*made, *later), kind), []

    def fill(found: re.Match[str]) -> str:
        if found[2] not in made:
            return found[0]
        filled.append(found[2])
        return found[1] + made[found[2]] + found[3]

    text = block(kind).sub(fill, text)
    with replacing(document) as beside:
        beside.write_text(text, encoding="utf-8")
    return filled
