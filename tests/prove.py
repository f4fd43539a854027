"""Runs a long proof and notes its result in docs/proofs.md: `python3 run.py prove NAME`.

A proof is a choice of tests, here or in every ComfyUI there is, some of them many times over. All
these places work at once, but for a proof that needs the whole memory; the first one's tests are
seen as they run, those of the others when they have ended. The tests themselves are those of
`python3 run.py test`, which runs each once.
"""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

from hosts import find_hosts, host_version, of_host, threads

ROOT = Path(__file__).resolve().parents[1]
NOTES = ROOT / "docs" / "proofs.md"


@dataclass(frozen=True)
class Proof:
    """Tests, and how they are run."""

    says: str
    here: tuple[str, ...] = ()  # words for pytest; none = no test
    in_hosts: tuple[str, ...] = ()  # the same for the Python of every ComfyUI
    times: int = 1
    environment: tuple[tuple[str, str], ...] = ()  # names and values, for the tests
    in_turn: bool = False  # one place after another: two at once have no room in 24 GB


PROOFS = {
    "long": Proof(
        "what is marked as too long for an ordinary run passes",
        ("tests", "--ignore", "tests/host", "-m", "long"),
        in_hosts=("tests/host", "-m", "long"),
        environment=(("LIDIT_LONG", "1"),),
    ),
    "families": Proof(
        "every family of LLMs and U-Nets gives what transformers and diffusers give",
        (
            *("tests/core/llm", "tests/core/text", "tests/core/unet", "tests/train/tasks"),
            *("-k", "family or families"),
        ),
        environment=(("LIDIT_EVERY_FAMILY", "1"),),
    ),
    "kills": Proof(
        "a run or recording that is killed anywhere goes on to the same bits",
        ("tests/train", "tests/core", "tests/stickers", "-k", "killed or resume or goes_on"),
        times=5,
        environment=(("LIDIT_LONG", "1"),),
    ),
    "moments": Proof(
        "a run goes on to the same bits that is killed at 20 random moments and stopped at 5, and "
        "with another number of processes",
        ("tests/train/loop/going_on/test_killed_anywhere.py",),
        environment=(("LIDIT_MOMENTS", "20"),),
    ),
    "compiled": Proof(
        "LI-DiT and its text side compile as one graph and give equal numbers",
        ("tests/core/model/test_compiled.py", "tests/core/model/test_compiled_ways.py"),
        environment=(("LIDIT_TEST_BACKEND", "inductor"), ("LIDIT_LONG", "1")),
    ),
    "fuzzing": Proof(
        "1,000 hostile inputs of each kind end in a result or in one sentence",
        ("tests/core/fuzzing", "tests/train/test_fuzzed_recipes.py"),
        in_hosts=(
            "tests/host/every_node/test_fuzzed_graphs.py",
            "tests/host/conditioning/test_fuzzed_conditioning.py",
        ),
        environment=(("LIDIT_FUZZ_INPUTS", "1000"),),
    ),
    "hosts": Proof("the nodes hold in every ComfyUI", in_hosts=("tests/host",)),
    "nodes": Proof(
        "every node of ComfyUI ends in a picture or in one sentence on a LI-DiT",
        in_hosts=("tests/host/every_node/test_every_node.py",),
        environment=(("LIDIT_EVERY_NODE", "1"),),
    ),
    "sizes": Proof(
        "an LLM of a real size through ComfyUI's own loader takes its file's memory, and frees it",
        in_hosts=("tests/host/llm/test_host_clip_sizes.py",),
        environment=(("LIDIT_REAL_SIZES", "1"),),
    ),
    "memory": Proof(
        "an LLM of 8 billion parameters encodes in 4 GB of anonymous memory, and a converted GGUF "
        "is as large as in float16, with its states",
        ("tests/core/llm/test_real_sizes.py", "-s"),
        environment=(("LIDIT_REAL_SIZES", "1"),),
    ),
    "checkpoints": Proof(
        "an adapter trains on SD1.5 in one file, and takes the memory that is planned",
        ("tests/train/plan/test_real_checkpoint.py", "-s"),
        environment=(("LIDIT_REAL_SIZES", "1"),),
    ),
    "throughput": Proof(
        "the stickers are trained 1.15 times as fast as at commit 74bf4f6, with the same losses",
        ("tests/train/test_throughput.py", "-s"),
        environment=(("LIDIT_THROUGHPUT", "1"),),
    ),
    "suite": Proof(
        "the library's tests take no longer than the same ones of commit c30ec82",
        ("tests/test_suite_times.py", "-s"),
        environment=(("LIDIT_SUITE", "1"),),
    ),
    "bridges": Proof(
        "bridges hold for text encoders as wide as people's, few layers deep, with random weights",
        in_hosts=("tests/host/bridge",),
        environment=(("LIDIT_REAL_SIZES", "1"), ("LIDIT_LONG", "1")),
        in_turn=True,
    ),
    "browsers": Proof(
        "the workflows open and draw in a browser",
        in_hosts=("tests/host", "-k", "browser"),
        times=3,
    ),
    "newcomers": Proof(
        "from an empty cache, one confirmation or one switch draws a picture on every canvas",
        in_hosts=("tests/host/test_first_run.py",),
        environment=(("LIDIT_EVERY_CANVAS", "1"),),
    ),
}


def hosts() -> list[tuple[str, Path, Path]]:
    """Name, folder and Python of every ComfyUI there is."""
    return [(f"ComfyUI {host_version(f)}", f, python) for f, python in find_hosts()]


def attempts(proof: Proof) -> list[tuple[str, list[str], dict[str, str]]]:
    """Where, which command and which environment, one for each time that the tests are run."""
    places = [("here", [sys.executable], proof.here, {})] if proof.here else []
    for name, folder, python in hosts() if proof.in_hosts else ():
        places.append((name, [str(python)], proof.in_hosts, of_host(folder)))
    at_once = 1 if proof.in_turn else len(places)
    return [
        (
            name,
            [*python, "-m", "pytest", "-q", *words],
            {**threads(at_once), **os.environ, **dict(proof.environment), **more},
        )
        for name, python, words, more in places
        for _ in range(proof.times)
    ]


def tried(
    command: list[str], environment: dict[str, str], out: IO | None = None
) -> tuple[bool, int, int]:
    """Whether the tests passed, how many there were, and how many of them were skipped.

    Args:
        out: where goes what they print; None = it is seen as it comes.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        words = [*command, f"--junitxml={report}"]
        told = {"stdout": out, "stderr": out and subprocess.STDOUT}
        passed = subprocess.call(words, cwd=ROOT, env=environment, **told) == 0
        suites = list(ElementTree.parse(report).iter("testsuite")) if report.is_file() else []
    tests, skipped = (sum(int(s.get(n, 0)) for s in suites) for n in ("tests", "skipped"))
    return passed, tests, skipped


def all_tried(
    planned: list[tuple[str, list[str], dict[str, str]]], in_turn: bool = False
) -> dict[str, list[tuple[bool, int, int]]]:
    """What came of each place's attempts, one after the other; the places work at once.

    Args:
        in_turn: the places, too, one after the other.
    """
    places = list(dict.fromkeys(place for place, _, _ in planned))

    def try_in(place: str) -> tuple[list[tuple[bool, int, int]], IO | None]:
        out = tempfile.TemporaryFile("w+", errors="replace") if place != places[0] else None
        return [tried(*what, out) for where, *what in planned if where == place], out

    results = {}
    with ThreadPoolExecutor(1 if in_turn else max(len(places), 1)) as pool:
        for place, (found, out) in zip(places, pool.map(try_in, places), strict=True):
            show(out)
            results[place] = found
    return results


def show(out: IO | None) -> None:
    if out is not None:
        out.seek(0)
        print(out.read(), end="", flush=True)


def told(place: str, results: list[tuple[bool, int, int]]) -> str:
    """How many attempts of all passed in this place, and what of it was skipped."""
    passed, tests, skipped = results[-1]
    if passed and tests == skipped:
        return f"skipped in {place}"
    left_out = f" ({skipped} of {tests} tests skipped)" if skipped else ""
    if not tests:
        left_out = " (ended without a report, as what is killed for its memory does)"
    return f"{sum(held for held, _, _ in results)} of {len(results)} in {place}{left_out}"


def run(name: str) -> tuple[bool, str]:
    """Whether the proof holds, and in how many attempts where.

    It does not hold where every test was skipped.
    """
    began = time.monotonic()
    proof = PROOFS[name]
    results = all_tried(attempts(proof), proof.in_turn)
    counts = ", ".join(told(place, each) for place, each in results.items())
    minutes = (time.monotonic() - began) / 60
    every = [result for each in results.values() for result in each]
    ran = any(tests > skipped for _, tests, skipped in every)
    holds = ran and all(passed for passed, _, _ in every)
    return holds, f"{counts or 'no ComfyUI is here'}; {minutes:.0f} minutes"


def commit() -> str:
    """What is checked out; to be asked before a proof, which may write tables.

    Rows that earlier proofs have added count as no change.
    """
    described = answer_of("git", "describe", "--always")
    others = f":!{os.path.relpath(NOTES, ROOT)}"
    changed = answer_of("git", "status", "--porcelain", "--untracked-files=no", "--", others)
    return f"{described or 'no git'}{'-dirty' if changed else ''}"


def answer_of(*words: str) -> str:
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def note(name: str, holds: bool, counts: str, proved: str) -> None:
    """One more row of the table, with the day.

    Args:
        proved: the commit.
    """
    row = f"| {name} | {'holds' if holds else 'FAILED'} | {counts} | {proved} | "
    with NOTES.open("a", encoding="utf-8") as file:
        file.write(f"{row}{datetime.date.today()} |\n")


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="run.py prove", description=__doc__)
    says = "; ".join(f"{name}: {proof.says}" for name, proof in PROOFS.items())
    parser.add_argument("name", choices=PROOFS, help=says)
    name = parser.parse_args(words).name
    proved = commit()
    holds, counts = run(name)
    note(name, holds, counts, proved)
    print(f"{name}: {'holds' if holds else 'FAILED'} ({counts})")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
