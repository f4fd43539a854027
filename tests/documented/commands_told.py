"""Every command that people are told to type: by documents, recipes, help texts and messages."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("README.md", "CONTRIBUTING.md", "docs/**/*.md", "web/docs/**/*.md", "recipes/**/*.yaml")
NAMES += ("run.py", *(f"{room}/**/*.py" for room in ("benchmarks", "lidit_*", "host", "nodes")))
STARTED = "python3?|lidit|pip|accelerate|git show|hf|wandb|playwright|pre-commit"
PROGRAM = rf"(?:[A-Z_]+=\S+ )*(?:[~\w./]*/)?(?:{STARTED})"
LINE = re.compile(rf"^[#\s]*({PROGRAM} [^\n|]*)$", re.MULTILINE)
SPAN = re.compile(rf"`({PROGRAM} [^`]+)`")
SAYS = r" {3,}.*|\s+# .*|\s*`.*"  # what stands behind a command and is none of it
STARTS = {"python3 run.py ": "lidit ", "python -m lidit_core ": "lidit "}
OWN = ("test", "lint", "setup", "prove")  # verbs of run.py that `lidit` has not


def commands_told() -> dict[str, set[str]]:
    """Each command with the files that tell it; `python3 run.py VERB` is read as `lidit VERB`."""
    told: dict[str, set[str]] = {}
    for path in sorted(path for name in NAMES for path in ROOT.glob(name)):
        text = path.read_text(encoding="utf-8")
        for command in told_in(text, prose=path.suffix == ".md"):
            told.setdefault(command, set()).add(path.relative_to(ROOT).as_posix())
    return told


def told_in(text: str, prose: bool) -> list[str]:
    """The commands of a text: lines of their own, and what stands between backticks.

    Args:
        prose: only the lines of its blocks of code are commands.
    """
    joined = re.sub(r"\\\\?\n[#\s]*", "", text)
    blocks = re.findall(r"^ *```\w*\n(.*?)^ *```", joined, re.MULTILINE | re.DOTALL)
    lines = LINE.findall("\n".join(blocks) if prose else joined)
    spans = [re.sub(r"['\"]?\s*\n[#\s]*(?:f?['\"])?", " ", s) for s in SPAN.findall(joined)]
    found = (normal(command) for command in (*lines, *spans))
    return [command for command in found if len(command.split()) > 1 and "{" not in command[:12]]


def normal(command: str) -> str:
    """A command as all documents would have it."""
    command = re.sub(r"\s+", " ", re.sub(SAYS, "", command.strip())).strip().rstrip(".,;")
    for start, short in STARTS.items():
        verb = command.removeprefix(start).split(" ")[0]
        if command.startswith(start) and verb not in OWN:
            return short + command.removeprefix(start)
    return command
