"""A name stands for one idea. Run: pytest tests/source"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("lidit_core", "lidit_train", "lidit_eval", "lidit_stickers", "host", "nodes")


def statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """A module's own statements, with those under its conditions, as `if TYPE_CHECKING`."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try):
            handlers = node.handlers if isinstance(node, ast.Try) else []
            inside = (node.body, node.orelse, *(handler.body for handler in handlers))
            for part in inside:
                yield from statements(part)


def is_type_variable(value: ast.expr | None) -> bool:
    """Whether it is `TypeVar(…)`: a letter as mathematicians have it, which many files share."""
    return isinstance(value, ast.Call) and ast.unparse(value.func).endswith("TypeVar")


def type_names(source: str) -> Iterator[tuple[str, bool]]:
    """The public classes and type aliases of a file, and whether each is a type variable.

    An alias is a name that is assigned, begins with a capital and goes on with small letters.
    """
    for node in statements(ast.parse(source).body):
        names: list[ast.expr] = []
        if isinstance(node, ast.ClassDef):
            yield node.name, False
        elif isinstance(node, ast.Assign):
            names = node.targets
        elif isinstance(node, ast.AnnAssign):
            names = [node.target]
        for name in names:
            if isinstance(name, ast.Name) and name.id[0].isupper() and not name.id.isupper():
                yield name.id, is_type_variable(node.value)


def shared(sources: dict[str, str]) -> dict[str, list[str]]:
    """Public names of classes and aliases that several files define, unless all are variables."""
    files, types = defaultdict(set), set()
    for path, source in sources.items():
        for name, variable in type_names(source):
            if not name.startswith("_"):
                files[name].add(path)
                types |= set() if variable else {name}
    return {name: sorted(files[name]) for name in sorted(types) if len(files[name]) > 1}


def test_a_public_class_or_type_alias_has_a_name_of_its_own():
    paths = [path for name in PACKAGES for path in (ROOT / name).rglob("*.py")]
    texts = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in paths}
    assert shared(texts) == {}


def test_aliases_are_compared_with_aliases_and_classes():
    """Constants are no aliases, and variables are only held against what is none."""
    sources = {
        "one.py": "class Box: ...\nSIZE = 3\nPair = tuple[int, int]\nKind = TypeVar('Kind')",
        "two.py": "Box = tuple[int, int]\nSIZE = 4\nfrom one import Pair\nKind = TypeVar('Kind')",
        "three.py": "if TYPE_CHECKING:\n    Pair: Alias = list[int]\nItem = typing.TypeVar('Item')",
        "four.py": "class Item: ...\n",
    }
    assert shared(sources) == {
        "Box": ["one.py", "two.py"],
        "Item": ["four.py", "three.py"],
        "Pair": ["one.py", "three.py"],
    }
