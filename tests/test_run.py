"""The setup script `run.py`, with a real venv and a real pip. Run: pytest tests/test_run.py"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import library
import pytest
from pip_index import take_for_only_index

from lidit_core.shipped import SHIPPED_MODELS

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def setup_script(tmp_path_factory):
    """`run.py` as a module whose `.venv` is elsewhere."""
    spec = importlib.util.spec_from_file_location("setup_script", ROOT / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    venv = tmp_path_factory.mktemp("run") / "venv"
    module.PYTHON = venv / module.PYTHON.relative_to(module.VENV)
    module.STAMP = venv / module.STAMP.name
    module.VENV = venv
    return module


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """A folder that pip takes for its only index."""
    take_for_only_index(tmp_path, monkeypatch)
    return tmp_path


def add_wheel(index: Path, name: str, version: str, *needs: str) -> None:
    """A package whose module says which version it is."""
    info = f"{name}-{version}.dist-info"
    head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    with zipfile.ZipFile(index / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", f"__version__ = {version!r}\n")
        archive.writestr(f"{info}/METADATA", head + "".join(f"Requires-Dist: {n}\n" for n in needs))
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n")


def pinned_torch() -> str:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return next(line.removeprefix("torch==") for line in lines if line.startswith("torch=="))


def test_cuda_packages_are_seen_before_they_are_downloaded(setup_script, index):
    add_wheel(index, "torch", pinned_torch(), "nvidia_cublas")
    add_wheel(index, "nvidia_cublas", "13.0")
    setup_script.make_venv()
    assert setup_script.torch_would_bring_cuda()
    assert not setup_script.has_torch()


def test_torch_without_a_gpu_is_the_pinned_one(setup_script, index):
    add_wheel(index, "torch", pinned_torch())
    add_wheel(index, "torch", "99.0")
    setup_script.make_venv()
    assert not setup_script.torch_would_bring_cuda()
    setup_script.install_torch(gpu=False)
    assert installed_torch(setup_script) == pinned_torch()


def installed_torch(setup_script) -> str:
    words = [setup_script.PYTHON, "-c", "import torch; print(torch.__version__)"]
    return subprocess.check_output(words, text=True).strip()


@pytest.mark.parametrize("gpu", [False, True])
def test_a_torch_that_was_there_stays(setup_script, index, monkeypatch, gpu):
    """As where one was built for an AMD GPU; a package stands in for the project, pip is real."""
    for version in (pinned_torch(), "98.0+rocm7", "99.0"):
        add_wheel(index, "torch", version)
    add_wheel(index, "needs_torch", "1.0", "torch>=2")
    setup_script.make_venv()
    install = setup_script.pip_install
    install(["torch==98.0+rocm7"])
    monkeypatch.setattr(setup_script, "has_nvidia_gpu", lambda: gpu)
    monkeypatch.setattr(
        setup_script,
        "pip_install",
        lambda words: install([*words[:-2], "--upgrade", "needs_torch"]),
    )
    setup_script.set_up({"standalone"})
    assert installed_torch(setup_script) == "98.0+rocm7"
    assert setup_script.installed_extras() == {"standalone"}
    setup_script.STAMP.unlink()


def test_what_is_set_up_is_remembered_until_it_changes(setup_script, index):
    setup_script.make_venv()
    assert setup_script.installed_extras() == set()
    stamp = {"fingerprint": setup_script.fingerprint(), "extras": ["standalone"]}
    setup_script.STAMP.write_text(json.dumps(stamp))
    assert setup_script.installed_extras() == {"standalone"}
    setup_script.set_up({"standalone"})  # would call pip otherwise, and find no index
    setup_script.STAMP.write_text(json.dumps({**stamp, "fingerprint": "older"}))
    assert setup_script.installed_extras() == set()


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        (["a cat"], True),
        (["a cat", "--model", "stickers-duo"], True),
        (["a cat", "--model=stickers"], True),
        (["a cat", "--model", "mine.safetensors"], False),
        (["a cat", "--model=mine.safetensors"], False),
        (["a cat", "--model", "stickers", "--llm", "SmolLM2"], False),
        (["--help"], False),
    ],
)
def test_the_demo_llm_is_fetched_for_the_models_that_read_it(setup_script, words, needed):
    assert setup_script.needs_demo_llm(words) == needed


def test_the_shipped_models_are_known(setup_script):
    assert set(setup_script.SHIPPED) == set(SHIPPED_MODELS)


def test_type_errors_are_counted_with_the_comments_and_casts_that_hide_some(setup_script):
    severities = ("error", "warning", "error", "information")
    report = {"generalDiagnostics": [{"severity": severity} for severity in severities]}
    ignore, basic = "# type: " + "ignore", "# pyright: " + "basic"
    sources = ["x = 1  # of type int", f"y = f()  {ignore}[no-any-return]\nz = y  {ignore}", basic]
    assert setup_script.count_type_errors(report, []) == 2
    assert setup_script.count_type_errors(report, sources) == 5
    casts = ["cast(Any, x).y", 'typing.cast("Any", x)', "cast(AnyModel, x)", "recast(Any, x)"]
    assert setup_script.count_type_errors(report, casts) == 4


def test_without_pyright_lint_says_so(setup_script, monkeypatch, capsys):
    monkeypatch.setattr(setup_script, "PYTHON", Path(sys.executable))
    monkeypatch.setattr(setup_script, "TYPE_CHECKER", "no_such_module")
    assert setup_script.lint_types() == 1
    assert "No module named no_such_module" in capsys.readouterr().out


def test_without_a_verb_it_teaches():
    shown = subprocess.run([sys.executable, ROOT / "run.py"], capture_output=True, text=True)
    assert shown.returncode == 0 and "python3 run.py generate" in shown.stdout


def test_tests_are_spread_over_the_cores_that_are_there():
    assert library.spread(1) == []
    assert library.spread(2) == ["-n", "2", "--dist", "loadfile"]
    assert library.spread(16)[1] == "4"
