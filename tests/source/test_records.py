"""Records that hold tensors or arrays are compared by identity. Run: pytest tests/source

The comparison that a dataclass writes by itself asks a tensor of many numbers for one truth.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = "lidit_core lidit_train lidit_eval lidit_stickers host nodes benchmarks".split()
ARRAYS = frozenset({"Tensor", "ndarray"})


@dataclass(frozen=True)
class Record:
    """A dataclass as its source has it."""

    place: str  # file:line
    held: frozenset[str]  # names in its fields' types
    by_identity: bool


def records(source: str, path: str = "") -> Iterator[tuple[str, Record]]:
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ClassDef):
            continue
        for given in node.decorator_list:
            called = given.func if isinstance(given, ast.Call) else given
            if isinstance(called, ast.Name) and called.id == "dataclass":
                said = given.keywords if isinstance(given, ast.Call) else []
                options = {k.arg: getattr(k.value, "value", None) for k in said}
                place = f"{path}:{node.lineno} {node.name}"
                yield node.name, Record(place, _held(node), options.get("eq") is False)


def _held(node: ast.ClassDef) -> frozenset[str]:
    fields = [field.annotation for field in node.body if isinstance(field, ast.AnnAssign)]
    inner = [each for field in fields for each in ast.walk(field)]
    names = {each.id for each in inner if isinstance(each, ast.Name)}
    return frozenset(names | {each.attr for each in inner if isinstance(each, ast.Attribute)})


def compared(found: Mapping[str, Record]) -> list[str]:
    """The places of records that hold arrays, by themselves or in others, and compare them."""
    arrays = set(ARRAYS)
    while more := {n for n, each in found.items() if each.held & arrays} - arrays:
        arrays |= more
    return [each.place for name, each in found.items() if name in arrays and not each.by_identity]


def test_no_record_compares_tensors():
    found: dict[str, Record] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            found |= records(path.read_text(encoding="utf-8"), name)
    assert len(found) > 200
    assert compared(found) == []


@pytest.mark.parametrize(
    "source, places",
    [
        ("@dataclass(frozen=True)\nclass A:\n    x: Tensor\n", [":2 A"]),
        ("@dataclass\nclass A:\n    x: dict[str, np.ndarray | None]\n", [":2 A"]),
        ("@dataclass(frozen=True, eq=False)\nclass A:\n    x: Tensor\n", []),
        ("@dataclass(eq=True)\nclass A:\n    x: Tensor\n", [":2 A"]),
        ("@dataclass\nclass A:\n    x: int\n", []),
        (
            "@dataclass(eq=False)\nclass A:\n    x: Tensor\n@dataclass\nclass B:\n    a: list[A]\n",
            [":5 B"],
        ),
    ],
)
def test_a_record_of_tensors_is_told_from_others(source, places):
    assert compared(dict(records(source))) == places
