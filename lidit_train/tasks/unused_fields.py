"""Recipes whose task would not read what they say are refused, each field in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass

from lidit_core.errors import LiDiTError

from ..recipe import Lora, Recipe

OF_A_LORA = {f"lora.{field.name}": "which is for trains: lora" for field in fields(Lora)}


def refuse(recipe: Recipe, unused: Mapping[str, str]) -> None:
    """Refuse fields that have another value than a recipe without them.

    Args:
        unused: each with the reason why the task does not use it; ``model.llms`` is the field
            ``llms`` of the section ``model``.
    Raises:
        LiDiTError: the first of them that is set.
    """
    for name, reason in unused.items():
        record, (*path, last) = recipe, name.split(".")
        for part in path:
            record = getattr(record, part)
        value, left_out = getattr(record, last), _left_out(record, last)
        if value != left_out:
            raise LiDiTError(
                f"the recipe trains {recipe.trains!r} and has {name}, {reason}; leave it out"
            )


def refuse_all(record: object, plain: object, place: str, reason: str, trains: str) -> None:
    """Refuse every field of a record that has another value than a plain one of its kind.

    Args:
        place: of the record in the recipe.
    Raises:
        LiDiTError: the first such field.
    """
    assert is_dataclass(record)  # as every part of a recipe
    for field in record.__dataclass_fields__:
        if getattr(record, field) != getattr(plain, field):
            raise LiDiTError(
                f"the recipe trains {trains!r} and has {place}.{field}, {reason}; leave it out"
            )


def _left_out(record: object, name: str) -> object:
    """The value that a field has in a recipe that leaves it out."""
    assert is_dataclass(record)  # as every part of a recipe
    default = type(record).__dataclass_fields__[name]
    return default.default_factory() if callable(default.default_factory) else default.default
