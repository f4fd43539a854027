"""A recipe is read from its YAML file, with fields changed by `--set`."""

from __future__ import annotations

import os
import re
import typing
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from lidit_core.errors import LiDiTError, check, first_line, shown
from lidit_core.io.records import read_record

from .recipe import Recipe


class _Yaml(yaml.SafeLoader):
    """YAML 1.1 takes 1e-4 for text; recipes mean a number."""


_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


# Beside its own error yaml raises these, of a date that is none or a number of too many digits.
NO_YAML = (ValueError, TypeError, LookupError, AttributeError, RecursionError, yaml.YAMLError)
MOST = 100_000  # values in a recipe: one that repeats its parts by name may stand for billions


def read_recipe(path: str | Path, changes: Sequence[str] = (), kind: type = Recipe) -> Any:
    """Read a recipe.

    Args:
        kind: the record that its fields are those of.
        changes: ``key.sub=value`` each, the value in YAML; a number is a place in a list.
    Raises:
        LiDiTError: an unknown field, a wrong type or value, no YAML; one sentence.
    """
    try:
        data = yaml.load(Path(path).read_text(encoding="utf-8"), _Yaml)
    except (OSError, *NO_YAML) as error:
        raise LiDiTError(
            f"recipe {path} cannot be read ({' '.join(str(error).split())[:500]}); give a YAML file"
        ) from error
    check(isinstance(data, dict), f"recipe {path} holds {type(data).__name__}; expected fields")
    _check_size(data, path)
    _look_beside(data, Path(path).parent)
    for change in changes:
        _change(data, change)
    _check_size(data, path)
    return read_record(kind, data, "recipe")


def _check_size(data: Any, path: str | Path) -> None:
    """Refuse a recipe that holds itself, or whose repeated parts are too much to go through."""
    left, seen = [data], 0
    while left and seen <= MOST:
        value = left.pop()
        seen += 1
        if isinstance(value, (dict, list, set, tuple)):
            left += value.values() if isinstance(value, dict) else value
    check(
        seen <= MOST,
        f"recipe {path} holds itself by an alias, or more than {MOST} values; expected each once: "
        "write out what its & and * stand for",
    )


def _look_beside(data: dict, folder: Path) -> None:
    """Paths that are not there from where the command runs are looked for beside the recipe."""
    sources = data["data"].get("sources") if isinstance(data.get("data"), dict) else None
    records = [(data.get("model"), name) for name in ("checkpoint", "pixart", "vae")]
    records += [(data.get("cache"), "given"), (data.get("adapter"), "base")]
    given = data.get("bridge")
    bridge = given if isinstance(given, dict) else {}
    records += [(data.get("alignment"), "encoder"), (bridge, "add"), (bridge, "checkpoint")]
    records += [(bridge.get("through"), "base")]
    records += [(source, "path") for source in (sources if isinstance(sources, list) else ())]
    for record, name in records:
        if not isinstance(record, dict):
            continue
        value = record.get(name)
        if isinstance(value, str) and value and not os.path.exists(value):
            if os.path.exists(folder / value):  # False for a name that no system takes
                record[name] = str(folder / value)


def _change(data: dict, change: str) -> None:
    place, equals, text = change.partition("=")
    check(bool(equals), f"--set {shown(change)} has no '='; expected key.sub=value")
    *path, last = place.split(".")
    where: Any = data
    try:
        value = yaml.load(text, _Yaml)
        for key in path:
            where = where[int(key)] if isinstance(where, list) else where.setdefault(key, {})
        where[int(last) if isinstance(where, list) else last] = value
    except NO_YAML as error:
        raise LiDiTError(
            f"--set {shown(change)} cannot be applied ({first_line(error)}); expected "
            "key.sub=value with keys of the recipe, and places of a list as numbers"
        ) from error


def _is_record(kind: object) -> TypeGuard[type]:
    return isinstance(kind, type) and is_dataclass(kind)


def _within(hint: object) -> list[object]:
    """A type, and those that it is made of."""
    return [hint, *(part for inner in typing.get_args(hint) for part in _within(inner))]


def field_names(kind: type = Recipe, before: str = "") -> list[str]:
    """Every field of a recipe by its dotted name, those within records included."""
    hints = typing.get_type_hints(kind)
    names = []
    for f in fields(kind):
        inner = [k for k in _within(hints[f.name]) if _is_record(k)]
        if inner:
            names += field_names(inner[0], f"{before}{f.name}.")
        else:
            names.append(before + f.name)
    return names
