"""A dataclass from JSON, every field checked by its type, and back."""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

from ..errors import LiDiTError, check, first_line, listed, shown

LARGEST = 1e30  # of the numbers in a record; float32, which computes with them, ends at 3.4e38


def read_json(kind: Any, text: str, where: str, what: str, known: int) -> Any:
    """A configuration from its JSON.

    Args:
        where: how a sentence on a field calls it.
        what: how a sentence on the whole calls it.
        known: the format that this version reads.
    """
    data = json_object(text, what)
    version = data.pop("format", None)
    if version != known:
        raise LiDiTError(
            f"{what} has format {shown(version)}; this version reads {known}: update the pack"
        )
    return read_record(kind, data, where)


def json_object(text: str, what: str) -> dict[str, Any]:
    """The object that a JSON text holds; one sentence where it holds none.

    Args:
        what: how the sentence calls the text.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:  # a number of too many digits is a ValueError
        raise LiDiTError(
            f"{what} is no JSON object ({first_line(error)}); expected what this library writes: "
            "fetch the file again"
        ) from error
    check(
        isinstance(data, dict),
        f"{what} is {shown(data)} and no JSON object; expected fields: fetch the file again",
    )
    return data


def read_record(kind: Any, data: Any, where: str) -> Any:
    """Rebuild a dataclass (and those within) from JSON data; unknown fields are refused."""
    if hasattr(kind, "from_dict"):  # a record that reads itself
        return kind.from_dict(data)
    make: Callable[..., Any] = kind
    if is_dataclass(kind):
        check(isinstance(data, dict), f"{where} is {shown(data)}; expected an object of fields")
        hints = typing.get_type_hints(kind)
        known = [f.name for f in fields(kind)]
        unknown = sorted(set(data) - set(known), key=str)
        check(
            not unknown,
            f"{where} has unknown field {listed(map(shown, unknown), 5)}; "
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
        return read_record(next((k for k in plain if _may_be(data, k)), plain[0]), data, where)
    if kind is dict or origin is dict:
        check(isinstance(data, dict), f"{where} is {shown(data)}; expected fields")
        inner = (typing.get_args(kind) or (str, None))[1]
        return {
            str(k): v if inner is None else read_record(inner, v, f"{where}.{k}")
            for k, v in data.items()
        }
    if origin is tuple:
        check(isinstance(data, (list, tuple)), f"{where} is {shown(data)}; expected a list")
        inner = typing.get_args(kind)[0]
        return tuple(read_record(inner, v, f"{where}[{i}]") for i, v in enumerate(data))
    number = kind is float and isinstance(data, int) and not isinstance(data, bool)
    right = number or (isinstance(data, kind) and not (kind is int and isinstance(data, bool)))
    check(right, f"{where} is {shown(data)}; expected {kind.__name__}")
    return _finite(data, where) if kind is float else kind(data)


def _may_be(data: Any, kind: Any) -> bool:
    """Whether data, of which JSON and YAML make lists, may be of one kind of a union."""
    origin = typing.get_origin(kind) or kind
    return isinstance(data, (list, tuple) if origin is tuple else origin)


def _finite(data: float, where: str) -> float:
    """A number that float32 bears: JSON and YAML know NaN, infinity, and any integer."""
    try:
        value = float(data)
    except OverflowError:
        value = math.inf
    limits = f"from {-LARGEST:g} to {LARGEST:g}"
    check(abs(value) <= LARGEST, f"{where} is {shown(data)}; expected a number {limits}")
    return value
