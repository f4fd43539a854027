"""Verdicts on disk: a line each, added as they come, so that a run that dies loses none."""

from __future__ import annotations

import json
from pathlib import Path

from lidit_core.errors import LiDiTError

from .judges.judge import Verdict

NAME = "verdicts.jsonl"


class Verdicts:
    """The verdicts of an evaluation's pictures, by the pictures' names.

    Raises:
        LiDiTError: the file holds something else; a last line that was cut is left out.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self.known: dict[str, Verdict] = {}
        if self.path.exists():
            self._read()

    def _read(self) -> None:
        whole = self.path.read_bytes()
        end = whole.rfind(b"\n") + 1
        for number, line in enumerate(whole[:end].splitlines(), start=1):
            try:
                found = json.loads(line)
                scores = {str(k): float(v) for k, v in found["scores"].items()}
                self.known[found["picture"]] = Verdict(scores, str(found["seen"]))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise LiDiTError(
                    f"line {number} of {self.path} is no verdict ({error}); delete the file, and "
                    "the pictures are judged again"
                ) from error
        if end < len(whole):
            with open(self.path, "r+b") as file:
                file.truncate(end)

    def add(self, picture: str, verdict: Verdict) -> None:
        """Keep the verdict of a picture."""
        line = {"picture": picture, "scores": dict(verdict.scores), "seen": verdict.seen}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.known[picture] = verdict
