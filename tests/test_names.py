"""A name stands for one idea. Run: pytest tests/test_names.py"""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("lidit_core", "lidit_train", "lidit_eval", "lidit_stickers", "host", "nodes")


def public_classes() -> dict[str, set[str]]:
    """The files of every public class."""
    found = defaultdict(set)
    for path in (path for name in PACKAGES for path in (ROOT / name).rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].add(path.relative_to(ROOT).as_posix())
    return found


def test_a_public_class_has_a_name_of_its_own():
    several = {name: files for name, files in public_classes().items() if len(files) > 1}
    assert {name: sorted(files) for name, files in several.items()} == {}
