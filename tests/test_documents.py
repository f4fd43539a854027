"""The documents are short, and what they name is there. Run: pytest tests/test_documents.py"""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("lidit_core", "lidit_train", "lidit_eval", "lidit_stickers", "host", "nodes", "tests")
FOLDERS = (*PACKAGES, "benchmarks")
ROOMS = sorted(path for name in FOLDERS for path in (ROOT / name).rglob("README.md"))
MANY = 5  # files in a folder, above which it tells what they are
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOMS])
NAMED = re.compile(r"`((?:lidit_\w+|host|nodes|tests|benchmarks|recipes|docs|workflows)/[\w./-]*)`")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def anchors(path: Path) -> set[str]:
    """The places in a document that a link may name: its headings, as GitHub writes them."""
    headings = re.findall(r"^#+ (.+)$", text_of(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_layers_of_the_design_are_those_of_the_contracts():
    """A package's row has every layer of its contract, in its order; what stands in one, in any."""
    contracts = configparser.ConfigParser()
    contracts.read_string(text_of(ROOT / ".importlinter"))
    rows = re.findall(
        r"^\| `(\w+)` \| (.+) \|$", text_of(ROOT / "docs" / "design.md"), re.MULTILINE
    )
    held = {
        section["containers"].split()[0].removeprefix("pack."): section["layers"]
        for section in contracts.values()
        if "containers" in section
    }
    layered = [(name, row) for name, row in rows if " · " in row]
    assert {name for name, _ in layered} == set(PACKAGES) - {"nodes", "tests"}
    for name, row in layered:
        told = [set(re.findall(r"`(\w+)`", layer)) for layer in row.split(" · ")]
        assert told == [set(re.findall(r"\w+", line)) for line in held[name].strip().split("\n")]


def test_the_readme_is_read_in_minutes():
    assert len(text_of(ROOT / "README.md").splitlines()) <= 200


def test_every_package_and_every_room_of_the_library_has_a_readme():
    library = [path for path in (ROOT / "lidit_core").iterdir() if (path / "__init__.py").is_file()]
    for folder in [*(ROOT / name for name in FOLDERS), *library]:
        assert folder / "README.md" in ROOMS, folder


def test_a_folder_of_many_files_has_a_readme_or_lies_in_a_room_that_lists_them():
    packages = [ROOT / name for name in FOLDERS if name != "tests"]
    for folder in {path.parent for package in packages for path in package.rglob("*.py")}:
        files = {path.name for path in folder.glob("*.py")} - {"__init__.py"}
        if len(files) > MANY and folder / "README.md" not in ROOMS:
            room = text_of(folder.parent / "README.md")
            assert {name for name in files if f"`{name}`" not in room} == set(), folder


@pytest.mark.parametrize("path", ROOMS, ids=name_of)
def test_a_rooms_readme_is_short_and_lists_the_rooms_files(path):
    text = text_of(path)
    files = {file.name for file in path.parent.glob("*.py")} - {"__init__.py"}
    assert len(text.splitlines()) <= 15
    assert {file for file in files if f"`{file}`" not in text} == set()
    named = set(re.findall(r"`(\w+\.py)`", text))
    there = {file.name for file in ROOT.rglob("*.py") if ".venv" not in file.parts}
    assert named <= there


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_and_files_of_a_document_are_there(path):
    text = text_of(path)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        place, _, anchor = target.partition("#")
        there = path.parent / place if place else path
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target
    assert [name for name in NAMED.findall(text) if not (ROOT / name).exists()] == []
    alone = set(re.findall(r"`(\w+\.py)`", text))
    assert alone <= {file.name for file in ROOT.rglob("*.py") if ".venv" not in file.parts}
