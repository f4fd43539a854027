"""The tests' times beside an older commit's. Run: pytest tests/test_suite_times.py

The measurement itself takes an hour of both cores: python3 run.py prove suite
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from benchmarks.older_tree import ROOT
from benchmarks.suite import compare, name_of, passed

REPORT = """<testsuites><testsuite>
<testcase name="test_a[1::2]" time="2.5"/><testcase name="test_b" time="1"><skipped/></testcase>
<testcase name="test_c" time="1"><failure/></testcase></testsuite></testsuites>"""


@pytest.mark.skipif(not os.environ.get("LIDIT_SUITE"), reason="ten minutes: run.py prove suite")
def test_the_tests_take_no_longer_than_before():
    assert subprocess.call([sys.executable, "-m", "benchmarks.suite"], cwd=ROOT) == 0


def test_a_test_is_known_by_its_name_wherever_it_lies():
    assert name_of("train/test_x.py::test_a") == "test_a"
    assert name_of("test_x.py::Kind::test_a[b::c]") == "test_a[b::c]"


def test_only_what_passed_in_both_is_compared(tmp_path, capsys):
    (tmp_path / "report.xml").write_text(REPORT)
    before = passed(tmp_path / "report.xml")
    assert before == {"test_a[1::2]": 2.5}
    assert compare(before, {"test_a[1::2]": 2.0, "test_d": 9.0})
    assert not compare(before, {"test_a[1::2]": 3.0})
    told = capsys.readouterr().out
    assert "1 tests passed in both: 2 s before, 2 s today" in told
    assert "today by before: 0.800" in told and "passed in one alone: test_d" in told


@pytest.mark.long
def test_the_documented_command_runs():
    words = ["--against", "HEAD", "--only", "known_by_its_name"]
    command = [sys.executable, "-m", "benchmarks.suite", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "1 tests passed in both" in done.stdout, done.stdout + done.stderr
