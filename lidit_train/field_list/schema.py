"""The fields of a recipe as a JSON schema, which editors complete and check recipes by.

JSON Schema, draft 7: https://json-schema.org/draft-07; what its reader in editors of YAML takes.
"""

from __future__ import annotations

import json
import types
import typing
from typing import Any

from ..recipe import Recipe
from .reading import NO_DEFAULT, Field, Limits, Record, meaning, plain, read_fields

# Recipes write large numbers as 19_200, which YAML 1.1 takes for a number and editors for a text.
SPACED = {int: "^[-+]?[0-9][0-9_]*$", float: "^[-+]?[0-9][0-9_]*([.][0-9_]*)?([eE][-+]?[0-9]+)?$"}
NAMES = {str: "string", bool: "boolean", dict: "object"}
NUMBERS = {int: "integer", float: "number"}


def as_schema() -> str:
    """The schema as JSON."""
    records: dict[str, dict] = {}
    made = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A recipe of lidit train",
        **_record(Recipe, records),
        "definitions": records,
    }
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


def _record(record: Record, records: dict[str, dict]) -> dict[str, Any]:
    """An object with a record's fields and no others; records within join ``records``."""
    fields = read_fields(record)
    return {
        "type": "object",
        "properties": {field.name: _field(field, records) for field in fields},
        "required": [field.name for field in fields if field.default is NO_DEFAULT],
        "additionalProperties": False,
    }


def _field(field: Field, records: dict[str, dict]) -> dict[str, Any]:
    said: dict[str, Any] = {"description": meaning(field)} if meaning(field) else {}
    plain_default = field.record is None or field.is_list or field.default is None
    if field.default is not NO_DEFAULT and plain_default:
        said["default"] = field.default
    return {**said, **_value(field.kind, field.limits, records)}


def _value(kind: Any, limits: Limits, records: dict[str, dict]) -> dict[str, Any]:
    """What a value of a type must be."""
    if type(None) in typing.get_args(kind):
        return {"anyOf": [_value(plain(kind), limits, records), {"type": "null"}]}
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_value(one, limits, records) for one in inner]}
    if origin is tuple:
        return {"type": "array", "items": _value(inner[0], limits, records)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _value(inner[1], limits, records)}
    if kind in NUMBERS:
        return _number(kind, limits)
    if kind in NAMES:
        choices = {"enum": list(limits.choices)} if limits.choices else {}
        return {"type": NAMES[kind], **choices}
    if kind.__name__ not in records:
        records[kind.__name__] = {}  # held free while the records within it are made
        records[kind.__name__] = _record(kind, records)
    return {"allOf": [{"$ref": f"#/definitions/{kind.__name__}"}]}


def _number(kind: type, limits: Limits) -> dict[str, Any]:
    made: dict[str, Any] = {"type": [NUMBERS[kind], "string"], "pattern": SPACED[kind]}
    ends = {"minimum": limits.low, "maximum": limits.high}
    return made | {name: end for name, end in ends.items() if isinstance(end, (int, float))}
