"""How long the library's tests take beside an older commit's: `python -m benchmarks.suite`.

Tests that both trees have under the same name are run in both at the same time, by one process of
one thread each, and compared by the sum of their times. `--only WORDS` takes those that pytest's
`-k` chooses.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from lidit_core.errors import exit_status

from .older_tree import ROOT, take_out

COMMIT = "c30ec82"  # the last before the files were moved
SHOWN = 5  # tests whose times differ most


def name_of(test: str) -> str:
    """A test's own name, with what it is given: of its id, what follows the file."""
    before, bracket, given = test.partition("[")
    return before.rsplit("::", 1)[-1] + bracket + given


def collect(root: Path, only: str) -> dict[str, str]:
    """The ids of a tree's tests by their names; a name that two tests have is left out."""
    words = ["--collect-only", "-q", ".", "--ignore", "host", "-k", only]
    told = subprocess.run(_pytest(words), **_within(root), capture_output=True, text=True)
    tests = [line for line in told.stdout.splitlines() if "::" in line]
    counts = Counter(map(name_of, tests))
    return {name_of(test): test for test in tests if counts[name_of(test)] == 1}


def start(root: Path, tests: Iterable[str], report: Path) -> subprocess.Popen:
    """Start tests of a tree, whose times go to a report in JUnit's form."""
    listed = report.with_suffix(".txt")
    listed.write_text("\n".join(tests), encoding="utf-8")
    words = ["-q", f"@{listed}", f"--junitxml={report}"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(_pytest(words), **_within(root), **quiet)


def _pytest(words: list[str]) -> list[str]:
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words]


def _within(root: Path) -> dict[str, Any]:
    more = {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "LIDIT_LONG": "1"}
    return {"cwd": root / "tests", "env": {**os.environ, **more}}


def passed(report: Path) -> dict[str, float]:
    """Seconds of each test that passed, with what was set up for it."""
    cases = ElementTree.parse(report).iter("testcase")
    left_out = ("failure", "error", "skipped")
    return {
        case.get("name", ""): float(case.get("time", 0))
        for case in cases
        if all(case.find(kind) is None for kind in left_out)
    }


def compare(before: dict[str, float], today: dict[str, float]) -> bool:
    """Print what the tests took that passed in both trees; whether today's take no longer."""
    both = before.keys() & today.keys()
    then, now = (sum(times[name] for name in both) for times in (before, today))
    print(f"{len(both)} tests passed in both: {then:.0f} s before, {now:.0f} s today")
    print(f"today by before: {now / max(then, 1e-9):.3f}")
    for name in sorted(both, key=lambda name: -abs(today[name] - before[name]))[:SHOWN]:
        print(f"  {before[name]:6.1f} s, {today[name]:6.1f} s  {name}")
    alone = sorted(before.keys() ^ today.keys())
    print(f"passed in one alone: {', '.join(alone) or 'none'}")
    return now <= then


def measure(commit: str, only: str, folder: Path) -> bool:
    """Run both trees' common tests side by side and compare them."""
    older = take_out(commit, folder / "tree")
    tests = {root: collect(root, only) for root in (older, ROOT)}
    names = sorted(tests[older].keys() & tests[ROOT].keys(), key=list(tests[ROOT]).index)
    print(f"{len(tests[older])} tests before, {len(tests[ROOT])} today, {len(names)} in both")
    reports = {root: folder / f"{what}.xml" for root, what in ((older, "before"), (ROOT, "today"))}
    running = [
        start(root, [tests[root][name] for name in names], report)
        for root, report in reports.items()
    ]
    for process in running:
        process.wait()
    return compare(*(passed(report) for report in reports.values()))


def main() -> int:
    """1 where today's tests take longer."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.suite", description=__doc__)
    parser.add_argument("--against", default=COMMIT, metavar="COMMIT", help=f"default {COMMIT}")
    parser.add_argument("--only", default="", metavar="WORDS", help="pytest's -k; default all")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("LIDIT_SCRATCH")) as folder:
        return 0 if measure(asked.against, asked.only, Path(folder)) else 1


if __name__ == "__main__":
    sys.exit(exit_status("benchmarks.suite", main))
