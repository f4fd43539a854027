"""A docstring says what it is about before it says more. Run: pytest tests/source"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "lidit_core",
    "lidit_train",
    "lidit_eval",
    "lidit_stickers",
    "host",
    "nodes",
    "benchmarks",
)
OPENINGS = (  # of a clause that lacks its subject: "As users write it", "By model and number"
    "About Above Across After Against Around As At Because Before Behind Below Beneath Beside "
    "Between Beyond But By During For From Here If In Inside Into Is Its Like Near Of On Onto Or "
    "Over Per Since So Than That Then Those Through To Under Until Upwards Via When Whatever "
    "Where Which While Who Whose Why With Within Without"
).split()
OPENING = re.compile(rf"({'|'.join(OPENINGS)})\b")
NO_NOUN = re.compile(r"(The |An? |Each )?[\w-]+['’]s[.,:;]")  # "The bridge's.", "Torch's, in …"
BARE = re.compile(r"[(`]")  # "(times, scenes)", "`count` rows": a shape or a name
SECTION = re.compile(r"(Args|Raises|Returns|Yields):")  # of a docstring, after its summary
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def openings(source: str) -> Iterator[tuple[int, str]]:
    """The line of each docstring that lacks its summary or its subject, and its first line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, DOCUMENTED) and (text := ast.get_docstring(node)):
            if any(pattern.match(text) for pattern in (OPENING, NO_NOUN, BARE, SECTION)):
                yield node.body[0].lineno, text.splitlines()[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_docstrings_have_their_subject(package):
    """Say what a function returns or does: "The choice as users write it", "Write a file"."""
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    lacking = [
        f"{path.relative_to(ROOT).as_posix()}:{line}: {text}"
        for path in files
        for line, text in openings(path.read_text(encoding="utf-8"))
    ]
    assert lacking == []


@pytest.mark.parametrize(
    "text, lacks",
    [
        ("As users write it: -3, all, or -3,-9,-15.", True),
        ("That of one word, by its checksum.", True),
        ("From a recipe to the model that a run begins with.", True),
        ("For each picture, whether its test is met.", True),
        ("The bridge's.", True),
        ("(B, R, X) -> (B, R, C).", True),
        ("(times, scenes)", True),
        ("(requests,): late less early.", True),
        ("`count` rows of a file.", True),
        ("Map entered means: (B, R, X) -> (B, R, C).", False),
        ("The (times, scenes) error of one model.", False),
        ("Write `count` rows to a file.", False),
        ("Args: values (requests,).", True),
        ("Raises:", True),
        ("Returns: how many there were.", True),
        ("Yields: each one.", True),
        ("Returns how many there were.", False),
        ("The number of one word, by its checksum.", False),
        ("Forward and backward pass: the loss.", False),
        ("DPG-Bench's protocol with a model that users name.", False),
    ],
)
def test_a_clause_or_a_section_is_told_from_a_subject(text, lacks):
    source = f'def function():\n    """{text}\n\n    More of it.\n    """\n'
    assert list(openings(source)) == ([(2, text)] if lacks else [])
