"""The fields of a recipe as people read them: on a terminal, and as a page of the documents."""

from __future__ import annotations

import json
import textwrap
import types
import typing
from typing import Any

from .reading import NO_DEFAULT, Field, meaning, plain, walk

WIDTH = 96  # of a terminal's lines
HEAD = """\
# Every field of a recipe

This page is made by `lidit train --fields markdown > docs/fields.md` from the code that reads
recipes. `[]` marks a list; `--set` has a number in its place, as `data.sources.0.path`. A field
that the recipe's kind of training does not read is refused. What recipes are for is in
[training.md](training.md).
"""


def as_text() -> str:
    """Every field with its type, range and default, and below it what it means."""
    lines = []
    for place, field in walk():
        facts = [kind_of(field.kind), range_of(field), default_of(field)]
        lines.append(f"{place}: {', '.join(filter(None, facts))}")
        indent = "    "
        lines += textwrap.wrap(
            meaning(field), WIDTH, initial_indent=indent, subsequent_indent=indent
        )
    return "\n".join(lines) + "\n"


def as_markdown() -> str:
    """A table for each section, in a page of its own."""
    sections: dict[str, list[str]] = {}
    titles = {"": "The recipe itself"}
    for place, field in walk():
        before = place.rpartition(".")[0]
        if field.record is not None:
            titles[f"{place}{'[]' * field.is_list}"] = meaning(field)
        cells = (f"`{field.name}`", kind_of(field.kind), range_of(field), default_of(field, True))
        row = " | ".join(_cell(cell) for cell in (*cells, meaning(field)))
        sections.setdefault(before, []).append(f"| {row} |")
    parts = [HEAD]
    for before, rows in sections.items():
        title = f"## `{before}`\n\n{titles[before]}" if before else f"## {titles[before]}"
        head = "| field | type | range | default | meaning |\n|---|---|---|---|---|"
        parts.append("\n".join([f"{title.rstrip()}\n", head, *rows]) + "\n")
    return "\n".join(parts)


def kind_of(kind: Any) -> str:
    """A type in a few words."""
    may_be_none = type(None) in typing.get_args(kind)
    kind, origin = plain(kind), typing.get_origin(plain(kind))
    inner = typing.get_args(kind)
    if origin is tuple:
        said = f"list of {kind_of(inner[0])}"
    elif origin in (typing.Union, types.UnionType):
        said = " or ".join(map(kind_of, inner))
    elif origin is dict:
        said = f"fields of {kind_of(inner[1])}"
    else:
        names = {
            str: "text",
            int: "integer",
            float: "number",
            bool: "true or false",
            dict: "fields",
        }
        said = names.get(kind, "section")
    return f"{said}, or null" if may_be_none else said


def range_of(field: Field) -> str:
    """The values that a field may have, where the recipe checks them."""
    limits = field.limits
    if limits.choices:
        return f"one of {', '.join(json.dumps(choice) for choice in limits.choices)}"
    low, high = (f"{x:g}" if isinstance(x, (int, float)) else x for x in (limits.low, limits.high))
    if low is not None and high is not None:
        return f"{low} to {high}"
    return f"{low} or more" if low is not None else ""


def default_of(field: Field, bare: bool = False) -> str:
    """The default as YAML; a section has those of its fields.

    Args:
        bare: without the word "default" before it.
    """
    if field.default is NO_DEFAULT:
        return "required"
    if field.record is not None and field.default is not None and not field.is_list:
        return ""
    default = json.dumps(field.default, ensure_ascii=False)
    return f"`{default}`" if bare else f"default {default}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
