"""The command for the nodes' tests. Run: pytest tests/test_hosts.py"""

from __future__ import annotations

import venv
from pathlib import Path

import hosts
import pytest


@pytest.fixture
def no_hosts(monkeypatch, tmp_path) -> Path:
    """An empty home folder, and no ComfyUI named."""
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for number in ("", "_2"):
        monkeypatch.delenv(f"COMFYUI_PATH{number}", raising=False)
        monkeypatch.delenv(f"COMFYUI_PYTHON{number}", raising=False)
    return tmp_path


def add_host(folder: Path, python: str) -> Path:
    """What the script looks for; its Python starts nothing."""
    (folder / python).parent.mkdir(parents=True)
    (folder / python).write_text("")
    (folder / "main.py").write_text("")
    (folder / "comfyui_version.py").write_text('__version__ = "1.2.3"\n')
    return folder


def test_without_a_host_it_says_that_its_tests_were_skipped(no_hosts, capsys):
    assert hosts.find_hosts() == [] and hosts.run_host_tests([]) == 0
    assert "skipped" in capsys.readouterr().out


def test_hosts_are_found_by_name_and_in_the_home_folder(no_hosts, monkeypatch):
    named = add_host(no_hosts / "somewhere", "python_of_mine")
    usual = add_host(no_hosts / "ComfyUI-0.3.64", ".venv/bin/python")
    monkeypatch.setenv("COMFYUI_PATH", str(named))
    monkeypatch.setenv("COMFYUI_PYTHON", str(named / "python_of_mine"))
    pythons = [named / "python_of_mine", usual / ".venv/bin/python"]
    assert hosts.find_hosts() == list(zip([named, usual], pythons))
    assert hosts.host_version(usual) == "1.2.3"


@pytest.mark.parametrize("variable", ["COMFYUI_PATH", "COMFYUI_PYTHON"])
def test_a_host_that_is_named_wrongly_is_no_reason_to_skip(no_hosts, monkeypatch, variable):
    add_host(no_hosts / "ComfyUI", ".venv/bin/python")
    monkeypatch.setenv(variable, str(no_hosts / "nowhere"))
    with pytest.raises(hosts.HostError, match=variable):
        hosts.find_hosts()


@pytest.mark.parametrize("named", [False, True])
def test_a_host_without_pytest_is_told_and_an_error_if_it_was_named(
    no_hosts, monkeypatch, capsys, named
):
    host = add_host(no_hosts / "ComfyUI", ".venv/bin/python")
    (host / ".venv/bin/python").unlink()
    venv.create(host / ".venv")  # whose Python has no pytest
    if named:
        monkeypatch.setenv("COMFYUI_PATH", str(host))
    assert hosts.run_host_tests([]) == named
    assert f"skipped in ComfyUI 1.2.3 in {host}" in capsys.readouterr().out


HALVES = ("first", "second")
WAITING = """#!/bin/sh
[ "$1" = -c ] && exit 0
mkdir "{met}/first" 2>/dev/null || touch "{met}/second"
for i in $(seq 300); do [ -e "{met}/second" ] && break; sleep 0.1; done
[ -e "{met}/second" ] && echo "$COMFYUI_PATH met another: $*"
exit {status}
"""


@pytest.mark.parametrize("status", [0, 1])
@pytest.mark.parametrize("words", [[], ["-q"]])
def test_processes_work_at_once(no_hosts, capfd, status, words):
    """Each one's Python, a script here, ends well only while another runs."""
    folders = [no_hosts / name for name in ("ComfyUI", "ComfyUI-0.3.64")]
    for folder in folders:
        python = add_host(folder, ".venv/bin/python") / ".venv/bin/python"
        ending = status * (folder == folders[1])
        python.write_text(WAITING.format(met=no_hosts, status=ending))
        python.chmod(0o755)
    assert hosts.run_host_tests(words) == status
    told = capfd.readouterr().out
    tests = "met another: -m pytest tests/host"
    ignored = " ".join(f"--ignore={each}" for each in hosts.HALF)
    of_first = [f"{tests} -q"] if words else [f"{tests} {ignored}", f"{tests}/bridge tests"]
    of_second = f"{tests} {' '.join(words or hosts.IN_PART)}"
    assert all(f"{folders[0]} {each}" in told for each in of_first)
    assert f"{folders[1]} {of_second}\n" in told
    first, second = (f"ComfyUI 1.2.3 in {folder}" for folder in folders)
    passed = [f"passed in {first}"] if words else [f"passed in {first}, {n} half" for n in HALVES]
    verdict = "FAILED" if status else "passed"
    last = f"{verdict} in {second}" + ("" if words else " in part")
    assert told.endswith(f"tests: {'; '.join([*passed, last])}\n")


@pytest.mark.parametrize(("cores", "each"), [(16, "5"), (2, "1"), (None, "1")])
def test_processes_share_the_cores(monkeypatch, cores, each):
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert hosts.threads(3) == {"OMP_NUM_THREADS": each}


def test_the_halves_of_the_first_hosts_tests_are_all_of_them():
    assert all((hosts.ROOT / each).is_dir() for each in hosts.HALF)
    first, second = (share.words for share in hosts.shares(hosts.ROOT, hosts.ROOT, [], True))
    assert second == ("tests/host", *(f"--ignore={each}" for each in first))
