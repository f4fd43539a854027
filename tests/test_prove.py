"""The command for long proofs. Run: pytest tests/test_prove.py"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import prove
import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_the_documented_proofs_are_those_that_there_are():
    told = re.findall(r"^python3 run\.py prove (\w+)$", prove.NOTES.read_text(), re.MULTILINE)
    assert told == list(prove.PROOFS)


@pytest.mark.parametrize("holds", [True, False])
def test_a_proof_is_noted_with_its_commit(monkeypatch, tmp_path, capsys, holds):
    """With the smallest of tests in the place of a proof's."""
    test = tmp_path / "test_it.py"
    test.write_text(f"def test_it():\n    assert {holds}\n")
    proof = prove.Proof("it holds", (str(test), "-p", "no:cacheprovider"), times=2)
    monkeypatch.setitem(prove.PROOFS, "families", proof)
    monkeypatch.setattr(prove, "NOTES", tmp_path / "proofs.md")
    assert prove.main(["families"]) == (not holds)
    (row,) = prove.NOTES.read_text().splitlines()
    result = "holds" if holds else "FAILED"
    assert re.match(rf"\| families \| {result} \| {2 * holds} of 2 in here; 0 minutes \| ", row)
    assert result in capsys.readouterr().out


@pytest.mark.parametrize(
    ("others", "holds", "row"),
    [
        ("", False, "skipped in here; 0 minutes"),
        ("def test_it():\n    pass\n", True, "1 of 1 in here (1 of 2 tests skipped); 0 minutes"),
    ],
)
def test_what_a_proof_skips_is_told(monkeypatch, tmp_path, others, holds, row):
    test = tmp_path / "test_it.py"
    skipped = '@pytest.mark.skipif("True", reason="it lacks")\ndef test_skipped():\n    pass\n'
    test.write_text(f"import pytest\n\n\n{skipped}\n\n{others}")
    proof = prove.Proof("it holds", (str(test), "-p", "no:cacheprovider"))
    monkeypatch.setitem(prove.PROOFS, "families", proof)
    assert prove.run("families") == (holds, row)


def test_all_places_are_tried_at_once_and_seen_whole(monkeypatch, tmp_path, capfd):
    """Each place's test ends well only while the other's runs."""
    test = tmp_path / "test_it.py"
    test.write_text(
        "import os, pathlib, time\n\n\ndef test_it():\n"
        "    mine, other = (pathlib.Path(os.environ[each]) for each in ('MINE', 'OTHER'))\n"
        "    mine.touch()\n    began = time.monotonic()\n"
        "    while not other.exists():\n        assert time.monotonic() - began < 60\n"
        "    print(mine.name, 'met', other.name)\n"
    )
    command = [sys.executable, "-m", "pytest", "-s", "-p", "no:cacheprovider", str(test)]
    planned = [
        (
            mine,
            command,
            {**os.environ, "MINE": str(tmp_path / mine), "OTHER": str(tmp_path / other)},
        )
        for mine, other in (("here", "there"), ("there", "here"), ("there", "here"))
    ]
    assert prove.all_tried(planned) == {"here": [(True, 1, 0)], "there": [(True, 1, 0)] * 2}
    printed = capfd.readouterr().out
    assert printed.count("there met here") == 2 and printed.count("here met there") == 1


def test_places_whose_memory_suffices_for_one_work_in_turn(tmp_path):
    test = tmp_path / "test_it.py"
    test.write_text(
        "import os, pathlib, time\n\n\ndef test_it():\n"
        "    working = pathlib.Path(os.environ['WORKING'])\n"
        "    working.touch(exist_ok=False)\n    time.sleep(0.5)\n    working.unlink()\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(test)]
    environment = {**os.environ, "WORKING": str(tmp_path / "working")}
    planned = [(place, command, environment) for place in ("here", "there")]
    found = prove.all_tried(planned, in_turn=True)
    assert found == {"here": [(True, 1, 0)], "there": [(True, 1, 0)]}


def test_tests_that_were_killed_are_told_as_such():
    command = [sys.executable, "-c", "import os; os._exit(9)"]
    killed = prove.tried(command, dict(os.environ))
    assert killed == (False, 0, 0)
    assert "0 of 1 in here (ended without a report" in prove.told("here", [killed])


def test_a_proof_that_writes_is_noted_with_the_commit_before_it(monkeypatch, tmp_path):
    written = tmp_path / "table.md"
    monkeypatch.setattr(prove, "commit", lambda: "dirty" if written.exists() else "clean")
    monkeypatch.setattr(prove, "run", lambda name: (True, written.write_text("a row") and "1 of 1"))
    monkeypatch.setattr(prove, "NOTES", tmp_path / "proofs.md")
    prove.main(["nodes"])
    assert "| clean |" in prove.NOTES.read_text()


def test_the_proof_of_fuzzing_feeds_more_than_a_test_run(monkeypatch, tmp_path):
    monkeypatch.delenv("LIDIT_FUZZ_INPUTS", raising=False)
    monkeypatch.setattr(prove, "hosts", lambda: [("a host", tmp_path, tmp_path / "python")])
    (_, here, first), (_, there, second) = prove.attempts(prove.PROOFS["fuzzing"])
    assert {each["LIDIT_FUZZ_INPUTS"] for each in (first, second)} == {"1000"}
    assert "tests/core/fuzzing" in here and "tests/host/every_node/test_fuzzed_graphs.py" in there
    assert second["COMFYUI_PATH"] == str(tmp_path)


def test_every_proof_chooses_tests():
    for name, proof in prove.PROOFS.items():
        chosen = [word for word in (*proof.here, *proof.in_hosts) if word.startswith("tests/")]
        assert chosen and all((ROOT / word).exists() for word in chosen), name


def test_rows_of_earlier_proofs_make_no_other_commit(monkeypatch, tmp_path):
    def git(*words: str) -> None:
        of = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(("git", *of, *words), cwd=tmp_path, check=True, capture_output=True)

    notes, code = tmp_path / "docs" / "proofs.md", tmp_path / "code.py"
    notes.parent.mkdir()
    notes.write_text("rows\n")
    code.write_text("x = 1\n")
    for words in (("init",), ("add", "."), ("commit", "-m", "first")):
        git(*words)
    monkeypatch.setattr(prove, "ROOT", tmp_path)
    monkeypatch.setattr(prove, "NOTES", notes)
    clean = prove.commit()
    notes.write_text("rows\nanother\n")
    assert clean == prove.commit() and "dirty" not in clean
    code.write_text("x = 2\n")
    assert prove.commit() == f"{clean}-dirty"
