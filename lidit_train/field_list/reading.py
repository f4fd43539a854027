"""Every field of a recipe with type, range, default and meaning, read from the records' own code.

A meaning is the comment behind a field, and a range what the record checks with `one_of` and
`in_range`. What people read of a field is thus what the trainer reads and refuses.
"""

from __future__ import annotations

import ast
import inspect
import io
import sys
import textwrap
import tokenize
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any

from lidit_core.errors import LiDiTError

from ..recipe import Recipe
from ..tasks.task import trained_kinds

NO_DEFAULT = object()  # of a field that a recipe must have
Record = type[Any]  # a dataclass


@dataclass(frozen=True)
class Limits:
    """What a record checks of a field."""

    choices: tuple[Any, ...] = ()
    low: float | str | None = None  # a text is an expression of other fields
    high: float | str | None = None


@dataclass(frozen=True)
class Field:
    """One field of a record."""

    name: str
    kind: Any  # its type
    default: Any  # or NO_DEFAULT
    meaning: str
    limits: Limits

    @property
    def record(self) -> Record | None:
        """The record whose fields it has, where it has some; of a list, of each of its entries."""
        found = (k for k in _parts(self.kind) if isinstance(k, type) and is_dataclass(k))
        return next(found, None)

    @property
    def is_list(self) -> bool:
        return typing.get_origin(plain(self.kind)) is tuple


def _parts(kind: Any) -> Iterator[Any]:
    """A type and all that it is made of."""
    yield kind
    for inner in typing.get_args(kind):
        yield from _parts(inner)


def plain(kind: Any) -> Any:
    """A type without the None that it may also be."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kinds = [k for k in typing.get_args(kind) if k is not type(None)]
        return kinds[0] if len(kinds) == 1 else typing.Union[tuple(kinds)]
    return kind


def read_fields(record: Record) -> list[Field]:
    """The fields of a record, in their order."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(record))).body[0]
    assert isinstance(tree, ast.ClassDef)
    hints, said, checked = typing.get_type_hints(record), _comments(record), _limits(record, tree)
    if record is Recipe:
        checked["trains"] = Limits(choices=trained_kinds())
    return [
        Field(
            f.name, hints[f.name], _default(f), said.get(f.name, ""), checked.get(f.name, Limits())
        )
        for f in fields(record)
    ]


def meaning(field: Field) -> str:
    """What a field means; of a section that has no comment, what its record says of itself.

    Empty lists and None are called as YAML calls them.
    """
    if field.meaning or field.record is None:
        return field.meaning.replace("() = ", "[] = ").replace("None = ", "null = ")
    doc = inspect.getdoc(field.record) or ""
    written = not doc.startswith(f"{field.record.__name__}(")  # as dataclasses make one up
    return doc.split("\n\n")[0].replace("\n", " ") if written else ""


def walk(record: Record = Recipe, place: str = "") -> Iterator[tuple[str, Field]]:
    """Every field by its dotted place, the fields of a section behind it; ``[]`` marks a list."""
    for field in read_fields(record):
        yield place + field.name, field
        if field.record is not None:
            yield from walk(field.record, f"{place}{field.name}{'[]' * field.is_list}.")


def _default(field: Any) -> Any:
    if field.default is not MISSING:
        return field.default
    return NO_DEFAULT if field.default_factory is MISSING else field.default_factory()


def _comments(record: Record) -> dict[str, str]:
    """The comment behind each field, and what goes on of it in lines of their own."""
    source = textwrap.dedent(inspect.getsource(record))
    found: dict[str, list[str]] = {}
    name, names = "", {f.name for f in fields(record)}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        starts = token.type == tokenize.NAME and token.start[1] == 4
        if starts:
            name = token.string if token.string in names else ""
        if token.type == tokenize.COMMENT and name:
            found.setdefault(name, []).append(token.string.lstrip("# "))
    return {name: " ".join(lines) for name, lines in found.items()}


def _limits(record: Record, tree: ast.ClassDef) -> dict[str, Limits]:
    """What `one_of` and `in_range` are told of the record's own fields when one is made."""
    module = vars(sys.modules[record.__module__])
    found: dict[str, Limits] = {}
    for call, aliases in _checks(tree):
        assert isinstance(call.func, ast.Name)
        if call.func.id == "one_of":
            name = aliases.get(_field_of(call.args[1]), _field_of(call.args[1]))
            found[name] = Limits(choices=tuple(_value(call.args[2], module)))
            continue
        limits = {word.arg: _value(word.value, module) for word in call.keywords}
        for arg in call.args[2:]:
            name = ast.literal_eval(arg)
            found[name] = Limits(low=limits.get("low"), high=limits.get("high"))
    return found


def _checks(tree: ast.ClassDef) -> Iterator[tuple[ast.Call, Mapping[str, str]]]:
    """Every such call of a record, and of which field the variables around it are the entries.

    What is checked under a condition only is none: it is no range of the field.
    """

    def within(node: ast.AST, aliases: Mapping[str, str]) -> Iterator:
        if isinstance(node, ast.For) and isinstance(node.target, ast.Name):
            aliases = {**aliases, node.target.id: _field_of(node.iter)}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in ("one_of", "in_range"):
                yield node, aliases
        for child in () if isinstance(node, ast.If) else ast.iter_child_nodes(node):
            yield from within(child, aliases)

    made = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "__post_init__"]
    for function in made:
        yield from within(function, {})


def _field_of(node: ast.expr) -> str:
    """The name of a field, as in ``self.name``, or of a variable; empty for all else."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _value(node: ast.expr, module: Mapping[str, Any]) -> Any:
    """What an expression of constants is; of one with fields in it, its text."""
    if any(isinstance(part, ast.Name) and part.id == "self" for part in ast.walk(node)):
        return ast.unparse(node).replace("self.", "")
    try:
        return eval(compile(ast.Expression(node), "<limits>", "eval"), dict(module))
    except NameError as error:
        raise LiDiTError(f"a check of the recipe's fields is not understood ({error})") from error
