"""The tables of what each of the host's nodes does on a model, by version of the host."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

HEAD = "| node | ComfyUI | what happens |\n|---|---|---|\n"
ROW = re.compile(r"\| `(.+?)`(, [^|]+)? \| ([0-9., ]+) \| (.+) \|")
ALL_INPUTS = ", all inputs"  # of a trial in which optional inputs are connected too
MOVED = ", values moved"  # of a trial with other values than the defaults
NEAR, NEARLY = 5, 0.3  # of 255, and of the distance: what another machine's rounding may change

Rows = dict[str, dict[str, str]]  # what happens, by node and version


def read_table(path: Path) -> tuple[str, Rows]:
    """The text before the rows, and the rows."""
    before, _, after = path.read_text(encoding="utf-8").partition(HEAD)
    rows: Rows = {}
    for node, more, versions, told in ROW.findall(after):
        of_node = rows.setdefault(node + more, {})
        of_node.update(dict.fromkeys(versions.split(", "), told))
    return before, rows


def read_rows(version: str, path: Path) -> dict[str, str]:
    """What happens by node in one version of the host."""
    _, rows = read_table(path)
    return {node: told[version] for node, told in rows.items() if version in told}


def write_rows(version: str, happens: Mapping[str, str], path: Path) -> None:
    """Put these rows in the place of all that the version had."""
    before, rows = read_table(path)
    for told in rows.values():
        told.pop(version, None)
    for node, told in happens.items():
        rows.setdefault(node, {})[version] = told.replace("|", "/")
    lines = [line for node in sorted(rows) for line in _lines(node, rows[node])]
    path.write_text(before + HEAD + "".join(lines), encoding="utf-8")


def _lines(node: str, told: Mapping[str, str]) -> list[str]:
    name, *more = node.partition(", ")
    shown = f"`{name}`{''.join(more)}"
    versions: dict[str, list[str]] = {}
    for version in sorted(told, key=lambda v: [int(n) for n in v.split(".")]):
        versions.setdefault(told[version], []).append(version)
    return [f"| {shown} | {', '.join(where)} | {text} |\n" for text, where in versions.items()]


def node_of(name: str) -> str:
    """The node that a row is of."""
    return name.removesuffix(MOVED).removesuffix(ALL_INPUTS)


def agree(told: str, before: str) -> bool:
    """Whether it is the same that happens: a picture as far off, or a sentence in any words."""
    kinds = [re.split(r" \(|[:;,]", each)[0] for each in (told, before)]
    far, was = (
        float((re.findall(r"picture \((\d+)\)", each) or [0])[0]) for each in (told, before)
    )
    return kinds[0] == kinds[1] and abs(far - was) <= max(NEAR, was * NEARLY)
