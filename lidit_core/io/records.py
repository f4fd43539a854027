"""A dataclass from JSON, every field checked by its type, and back."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

from ..errors import LiDiTError, check


def read_json(kind: Any, text: str, where: str, what: str, known: int) -> Any:
    """A configuration from its JSON.

    Args:
        where: how a sentence on a field calls it.
        what: how a sentence on the whole calls it.
        known: the format that this version reads.
    """
    try:
        data = json.loads(text)
        version = data.pop("format", None)
    except (json.JSONDecodeError, AttributeError, TypeError) as error:
        raise LiDiTError(
            f"{what} is no JSON object ({error}); expected what this library writes: fetch the "
            "file again"
        ) from error
    if version != known:
        raise LiDiTError(
            f"{what} has format {version!r}; this version reads {known}: update the pack"
        )
    return read_record(kind, data, where)


def read_record(kind: Any, data: Any, where: str) -> Any:
    """Rebuild a dataclass (and those within) from JSON data; unknown fields are refused."""
    if hasattr(kind, "from_dict"):  # a record that reads itself
        return kind.from_dict(data)
    make: Callable[..., Any] = kind
    if is_dataclass(kind):
        check(isinstance(data, dict), f"{where} is {data!r}; expected an object of fields")
        hints = typing.get_type_hints(kind)
        known = [f.name for f in fields(kind)]
        unknown = sorted(set(data) - set(known))
        check(
            not unknown,
            f"{where} has unknown field {', '.join(map(repr, unknown))}; "
            f"expected only {', '.join(known)}",
        )
        try:
            return make(**{k: read_record(hints[k], v, f"{where}.{k}") for k, v in data.items()})
        except TypeError as error:
            raise LiDiTError(
                f"{where} is incomplete ({error}); fetch the file again, or write what is missing"
            ) from error
    return _read_value(kind, data, where)


def _read_value(kind: Any, data: Any, where: str) -> Any:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        if data is None and type(None) in typing.get_args(kind):
            return None
        plain = [k for k in typing.get_args(kind) if k is not type(None)]
        return read_record(next((k for k in plain if isinstance(data, k)), plain[0]), data, where)
    if kind is dict or origin is dict:
        check(isinstance(data, dict), f"{where} is {data!r}; expected fields")
        inner = (typing.get_args(kind) or (str, None))[1]
        return {
            str(k): v if inner is None else read_record(inner, v, f"{where}.{k}")
            for k, v in data.items()
        }
    if origin is tuple:
        check(isinstance(data, (list, tuple)), f"{where} is {data!r}; expected a list")
        inner = typing.get_args(kind)[0]
        return tuple(read_record(inner, v, f"{where}[{i}]") for i, v in enumerate(data))
    number = kind is float and isinstance(data, int) and not isinstance(data, bool)
    right = number or (isinstance(data, kind) and not (kind is int and isinstance(data, bool)))
    check(right, f"{where} is {data!r}; expected {kind.__name__}")
    return kind(data)
