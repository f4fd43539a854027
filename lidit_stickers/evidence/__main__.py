"""What ablations, bias, bridges and probes found, from their runs' folders into the documents.

    python -m lidit_stickers.evidence --runs runs --write docs/results.md docs/llmdiff.md

Each table is the report that its own command left, with that command above it, an ablation's with
the --set that it was asked for with; the report names the weights by their SHA-256. What has not
been run yet stays as the document has it, and is told. A document marks the place of a table by its
name:

    <!-- evidence: ablation -->
    <!-- end of evidence -->
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lidit_core.errors import LiDiTError, check, exit_status
from lidit_core.io.atomic import replacing
from lidit_eval.record import read_record_of

from ..ablation.table import CHANGES
from ..ablation.table import JSON as FIGURES
from ..ablation.table import MARKDOWN as ABLATION
from ..bias.report import MARKDOWN as BIAS
from ..bias.report import PLOT
from ..bridging.report import MARKDOWN as BRIDGING
from ..making.tables import read
from ..making.tables import write as write_tables
from ..probe.report import MARKDOWN as PROBE

AGAINST = "against.md"  # of `lidit eval`


@dataclass(frozen=True)
class Evidence:
    """One table of the documents.

    Args:
        files: in the folder of all runs; they are there once its command is through.
        told: makes Markdown of them.
        picture: a file that goes beside the document.
    """

    command: str
    files: tuple[str, ...]
    told: Callable[[Sequence[Path]], str]
    picture: str = ""


def report(files: Sequence[Path]) -> str:
    """A report without its title, its headings as bold lines."""
    (file,) = files
    _, _, text = file.read_text(encoding="utf-8").partition("\n")
    return re.sub(r"^#+ (.+)$", r"**\1**", text.strip("\n"), flags=re.MULTILINE)


def compared(files: Sequence[Path]) -> str:
    """Evaluations less those that they were compared with, which lie beside them."""
    parts = []
    for file in files:
        head, _, text = file.read_text(encoding="utf-8").strip().partition("\n")
        other = file.parents[1] / head.removeprefix("# Against ")
        record, base = read_record_of(file.parent), read_record_of(other)
        drawn = f"{record['model']} (*this*) and {base['model']} (*other*)"
        parts.append(f"{drawn}, guidance {record.get('cfg', 'its own')}:\n\n{text.strip()}")
    return "\n\n".join(parts)


EVIDENCE = {
    "ablation": Evidence(
        "lidit ablate recipes/ablate.yaml --out runs/ablate", (f"ablate/{ABLATION}",), report
    ),
    "halves": Evidence(
        "lidit ablate recipes/ablate-halves.yaml --out runs/ablate-halves …",
        (f"ablate-halves/{ABLATION}",),
        report,
    ),
    "forms": Evidence(
        "lidit ablate recipes/ablate-adapter.yaml --out runs/forms", (f"forms/{ABLATION}",), report
    ),
    "readings": Evidence(
        "lidit ablate recipes/ablate-readings.yaml --out runs/ablate-readings …",
        (f"ablate-readings/{ABLATION}",),
        report,
    ),
    "bias": Evidence("lidit bias --out runs/bias …", (f"bias/{BIAS}",), report, f"bias/{PLOT}"),
    "gates": Evidence(
        "lidit eval runs/ablate/runs/timeless-0/final.safetensors --cfg 1 --out runs/timeless-1 "
        "--against runs/full-1",
        (f"timeless-3/{AGAINST}", f"timeless-1/{AGAINST}"),
        compared,
    ),
    "branch": Evidence(
        "python -m lidit_stickers.bridging.branch --out runs/bridged-branch",
        (f"bridged-branch/{BRIDGING}",),
        report,
    ),
    "checkpoint": Evidence(
        "python -m lidit_stickers.bridging.checkpoint --out runs/bridged-checkpoint",
        (f"bridged-checkpoint/{BRIDGING}",),
        report,
    ),
    "probe": Evidence(
        "python -m lidit_stickers.probe --out runs/probe --gaps runs/ablate-readings/ablation.json",
        (f"probe/{PROBE}",),
        report,
    ),
}
KIND = "evidence"  # of tables, as documents mark them


def tables(runs: Path) -> dict[str, str]:
    """The Markdown of all that is through, by the names that documents mark."""
    made = {}
    for name, each in EVIDENCE.items():
        files = [runs / file for file in each.files]
        if all(file.is_file() for file in files):
            picture = f"![{name}]({Path(each.picture).name})\n\n" if each.picture else ""
            command = asked_with(each.command, files[0])
            made[name] = f"`{command}`:\n\n{picture}{each.told(files)}\n"
    return made


def asked_with(command: str, file: Path) -> str:
    """The command that gives a table: of an ablation's with what was changed by --set.

    Raises:
        LiDiTError: the table is of before that was kept beside it.
    """
    if file.name != ABLATION:
        return command
    beside = file.with_name(FIGURES)
    try:
        changes = json.loads(beside.read_text(encoding="utf-8"))[CHANGES]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise LiDiTError(
            f"{beside} does not say what was changed by --set, which belongs to the command above "
            f"its table; start that again, with its --set: {command}"
        ) from error
    words, dots, _ = command.partition(" …")
    return " ".join([words, *(f"--set {_quoted(change)}" for change in changes)]) + dots


def _quoted(word: str) -> str:
    """A word as shells read it."""
    return word if re.fullmatch(r"[\w.=+/:-]+", word) else f'"{word}"'


def write(document: Path, made: Mapping[str, str], runs: Path) -> list[str]:
    """Fill a document's places, and put pictures beside it; the names that were filled."""
    filled = write_tables(document, made, KIND, tuple(EVIDENCE))
    for name in filled:
        if EVIDENCE[name].picture:
            picture = runs / EVIDENCE[name].picture
            with replacing(document.parent / picture.name) as beside:
                shutil.copyfile(picture, beside)
    return filled


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lidit_stickers.evidence",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--runs", type=Path, default=Path("runs"), metavar="DIR", help="folder of all runs (runs)")
    add("--write", type=Path, nargs="+", required=True, metavar="FILE", help="documents")
    options = parser.parse_args(arguments)
    for document in options.write:
        read(document, tuple(EVIDENCE), KIND)  # no document is written where another is none
    made = tables(options.runs)
    check(
        bool(made),
        f"{options.runs} has none of {', '.join(f for e in EVIDENCE.values() for f in e.files)}; "
        "name the folder of the runs with --runs, or run what docs/evaluation.md says",
    )
    for document in options.write:
        filled = write(document, made, options.runs)
        print(f"{document}: {', '.join(filled) or 'nothing'} written")
    print(f"not there yet: {', '.join(n for n in EVIDENCE if n not in made) or 'nothing'}")


if __name__ == "__main__":
    sys.exit(exit_status("evidence", main))
