"""Verdicts on disk: a line each, added as they come, so that a run that dies loses none."""

from __future__ import annotations

import json
from pathlib import Path

from lidit_core.errors import LiDiTError
from lidit_core.io.hashes import sha256

from .judges.judge import Verdict

NAME = "verdicts.jsonl"


class Verdicts:
    """The verdicts of an evaluation's pictures, by the pictures' names; of several the last counts.

    Args:
        edition: of the judge; verdicts of another one are left out.
    Raises:
        LiDiTError: the file holds something else; a last line that was cut is left out.
    """

    def __init__(self, folder: Path, edition: str) -> None:
        self.path, self.edition = folder / NAME, edition
        self.known: dict[str, Verdict] = {}
        self.judged: dict[str, str] = {}  # the SHA-256 of what was judged, by the pictures' names
        if self.path.exists():
            self._read()

    def _read(self) -> None:
        whole = self.path.read_bytes()
        end = whole.rfind(b"\n") + 1
        for number, line in enumerate(whole[:end].splitlines(), start=1):
            try:
                found = json.loads(line)
                if str(found.get("edition", "")) != self.edition:
                    continue
                scores = {str(k): float(v) for k, v in found["scores"].items()}
                self.known[found["picture"]] = Verdict(scores, str(found["seen"]))
                self.judged[found["picture"]] = str(found.get("sha256"))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise LiDiTError(
                    f"line {number} of {self.path} is no verdict ({error}); delete the file, and "
                    "the pictures are judged again"
                ) from error
        if end < len(whole):
            with open(self.path, "r+b") as file:
                file.truncate(end)

    def of(self, picture: Path) -> Verdict | None:
        """The verdict on a picture; None where none is known of the file as it is now."""
        known = self.known.get(picture.name)
        if known is None or not picture.is_file():
            return None
        return known if self.judged[picture.name] == sha256(picture) else None

    def add(self, picture: Path, verdict: Verdict) -> None:
        """Keep the verdict on a picture."""
        name, digest = picture.name, sha256(picture)
        line = {"picture": name, "sha256": digest, "scores": dict(verdict.scores)}
        line |= {"edition": self.edition} if self.edition else {}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({**line, "seen": verdict.seen}) + "\n")
        self.known[name], self.judged[name] = verdict, digest
