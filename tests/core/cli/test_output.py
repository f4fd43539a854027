"""Where a command's output goes. Run: pytest tests/core/cli/test_output.py"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("words", [("info", "LI-DiT-1B"), ("info",), ("generate", "--help")])
def test_a_reader_that_has_ended_is_no_error(words):
    """As with `lidit info FILE | head -1`; here nobody reads even the first line."""
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-m", "lidit_core", *words]
    ended = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, text=True)
    os.close(writes)
    assert ended.stderr == ""
    assert ended.returncode == 141 or words[-1] == "--help"  # which argparse writes, and is content


def test_a_reader_of_the_first_line_gets_it():
    """The real shell's pipe, as a user types it."""
    line = f"'{sys.executable}' -m lidit_core info LI-DiT-1B | head -1"
    told = subprocess.run(line, shell=True, capture_output=True, text=True)
    assert told.stdout == "preset LI-DiT-1B\n" and told.stderr == ""


def test_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "lidit_core", "info", "LI-DiT-1B"]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert "No space left on device" in ended.stderr and "make room" in ended.stderr
