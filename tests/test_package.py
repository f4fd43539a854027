"""What the repository promises as a package. Run: pytest tests/test_package.py"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest

import lidit_core

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
LARGEST = 40 << 20  # bytes of all tracked files

IMPORT_ALL = """
import pkgutil, sys, lidit_core
for module in pkgutil.walk_packages(lidit_core.__path__, "lidit_core."):
    if not module.name.endswith("__main__"):
        __import__(module.name)
print(*sorted({name.split(".")[0] for name in sys.modules}))
"""


def test_the_library_needs_no_host_and_no_transformers_to_import():
    command = [sys.executable, "-c", IMPORT_ALL]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    loaded = set(result.stdout.split())
    assert "torch" in loaded
    unwanted = {name for name in loaded if name.startswith(("comfy", "folder_paths"))}
    assert not unwanted and "transformers" not in loaded


def imported_packages(path: Path) -> set[str]:
    """The top-level names that a file imports, relative imports aside."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def test_inside_the_library_imports_are_relative():
    """ComfyUI loads it under another name. `fetch.py` names itself when it is run as a script."""
    files = [f for f in (ROOT / "lidit_core").rglob("*.py") if f.name != "fetch.py"]
    assert not [f.name for f in files if "lidit_core" in imported_packages(f)]


def quoted_list(name: str) -> list[str]:
    block = re.search(rf"^{name} = \[(.*?)\]", PYPROJECT, re.MULTILINE | re.DOTALL)
    return re.findall(r'"([^"]+)"', block.group(1))


def test_requirements_are_the_dependencies_and_never_torch():
    requirements = (ROOT / "requirements.txt").read_text().split()
    assert requirements == quoted_list("dependencies")
    assert not [line for line in requirements if re.match(r"(torch|transformers|numpy)\b", line)]
    assert not [line for line in requirements if re.search(r"<|==|~=", line)]  # no upper pins


def test_the_public_names_are_there():
    for name in lidit_core.__all__:
        assert getattr(getattr(lidit_core, name), "__name__", name) == name


def test_the_version_is_the_same_everywhere():
    (version,) = re.findall(r'^version = "(.+)"', PYPROJECT, re.MULTILINE)
    assert version == lidit_core.__version__


def tracked_files() -> list[Path]:
    if not (ROOT / ".git").exists():  # an archive holds nothing else
        return [p for p in ROOT.rglob("*") if p.is_file() and ".venv" not in p.parts]
    names = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def test_tracked_files_stay_small():
    sizes = {path: path.stat().st_size for path in tracked_files()}
    assert sum(sizes.values()) < LARGEST, sorted(sizes.items(), key=lambda item: -item[1])[:5]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> list[str]:
    """The names of the files in a wheel of the code, built from a copy and without a network."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheels")
    for path in tracked_files():
        if path.suffix in (".py", ".toml") or path.name in ("README.md", "LICENSE"):
            (tree / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tree / path.relative_to(ROOT))
    words = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", out, tree]
    result = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (file,) = out.glob("*.whl")
    return zipfile.ZipFile(file).namelist()


def test_all_code_but_forwards_is_installed(wheel):
    """`stickers/` and `lidit_core/fetch.py` start what has moved, and stay in the repository."""
    packages = tuple(item.removesuffix("*") + "/" for item in quoted_list("include"))
    code = {path.relative_to(ROOT).as_posix() for path in tracked_files() if path.suffix == ".py"}
    wanted = {name for name in code if name.startswith(packages)} - {"lidit_core/fetch.py"}
    assert {name for name in wheel if name.endswith(".py")} == wanted
    assert {"lidit_core/llm/fetch.py", "lidit_core/cli/fetch.py"} <= wanted


def test_the_readme_maps_every_package_folder():
    packages = (item.removesuffix("*") for item in quoted_list("include"))
    for folder in (*packages, "lidit_core/text", "lidit_core/cli", "tests"):
        assert f"{Path(folder).name}/" in README, folder


def test_files_are_short_and_folders_are_not_full():
    code = [path for path in tracked_files() if path.suffix == ".py"]
    long = {str(path.relative_to(ROOT)): count_lines(path) for path in code}
    assert {name: lines for name, lines in long.items() if lines > 350} == {}
    files = Counter(path.parent for path in code if path.name != "__init__.py")
    assert {str(folder): count for folder, count in files.items() if count > 15} == {}


def count_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_no_other_folder_takes_the_workflows_place():
    """ComfyUI serves a pack's templates from the first of these that there is, ours being last.

    See `app/custom_node_manager.py` there.
    """
    names = ("example_workflows", "example", "examples", "workflow", "workflows")
    assert [name for name in names if (ROOT / name).exists()] == ["workflows"]
