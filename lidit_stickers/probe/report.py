"""The report of the probes: Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from lidit_core.errors import LiDiTError, check, first_line
from lidit_core.io.atomic import replacing

from .facts import FACTS
from .readings import READINGS, ProbedReading
from .ridge import Share

MARKDOWN, JSON = "probe.md", "probe.json"
SharesByFact = Mapping[str, Mapping[str, Mapping[str, Share]]]  # reading, list of prompts, fact


def read_gaps(path: Path) -> tuple[dict[str, float], str]:
    """The mean text gap of each reading, and the SHA-256 of what their transformers began with.

    Raises:
        LiDiTError: the file cannot be read, or is of another ablation.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        runs = told["runs"].items()
        gaps = {name: [g for by_seed in run["gaps"] for g in by_seed] for name, run in runs}
        means = {name: sum(all_) / len(all_) for name, all_ in gaps.items()}
        trunk = str(told.get("trunk_sha256", ""))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise LiDiTError(
            f"--gaps {path} cannot be read ({first_line(error)}); expected the ablation.json that "
            "`lidit ablate` writes"
        ) from error
    missing = [reading.name for reading in READINGS if reading.name not in means]
    check(
        not missing,  # another ablation may call by a reading's name what has a refiner besides
        f"--gaps {path} has no variant {', '.join(missing)}; expected the ablation.json of "
        "recipes/ablate-readings.yaml, as the variants of others read otherwise",
    )
    return means, trunk


def write_report(
    readings: Sequence[ProbedReading],
    found: SharesByFact,
    gaps: Mapping[str, float],
    record: Mapping[str, object],
    out: Path,
) -> str:
    """Write probe.md and probe.json; the Markdown.

    Args:
        gaps: text gaps, by the readings' names.
        record: what was asked for.
    """
    text = "\n".join(_lines(readings, found, gaps, record)) + "\n"
    plain = {
        "record": dict(record),
        "readings": [
            {**asdict(r), "found": _plain(found[r.name]), "text_gap": gaps.get(r.name)}
            for r in readings
        ],
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, content in ((MARKDOWN, text), (JSON, json.dumps(plain, indent=1) + "\n")):
        with replacing(out / name) as beside:
            beside.write_text(content, encoding="utf-8")
    return text


def _plain(found: Mapping[str, Mapping[str, Share]]) -> dict:
    return {
        where: {fact: asdict(share) for fact, share in by_fact.items()}
        for where, by_fact in found.items()
    }


def _lines(
    readings: Sequence[ProbedReading],
    found: SharesByFact,
    gaps: Mapping[str, float],
    record: Mapping,
) -> Iterator[str]:
    yield "# What a linear probe reads of a prompt's mean state"
    yield ""
    yield (
        f"Fitted on {record['captions']:,} captions of training; the share that is read right, "
        "with Wilson's interval of 95 %. *What stands first* is which of two kinds is left of the "
        "other or above it; each two are asked for in both orders, in the same words, of which "
        "a reading without order tells one right, and 0.5."
    )
    yield ""
    llms = "; ".join(f"{name} {said[:12]}" for name, said in record["llms"].items())
    trunk = record["trunk_sha256"][:12]
    beside = f" Text gaps are of transformers that were forked from {trunk}." if trunk else ""
    yield f"--every {record['every']}; {llms or 'no LLM'}.{beside}"
    some = found[readings[0].name]
    heads = [
        f"{fact.name}, {where}" for where in some for fact in FACTS if fact.name in some[where]
    ]
    yield ""
    yield f"| reading | {' | '.join(heads)} | text gap |"
    yield "|---" * (len(heads) + 2) + "|"
    for reading in readings:
        cells = [
            _shown(by_fact[fact.name])
            for by_fact in found[reading.name].values()
            for fact in FACTS
            if fact.name in by_fact
        ]
        gap = f"{gaps[reading.name]:.5f}" if reading.name in gaps else ""
        yield f"| {reading.says} | {' | '.join(cells)} | {gap} |"


def _shown(share: Share) -> str:
    low, high = share.interval
    return f"{share.mean:.3f} ({low:.3f}–{high:.3f})"
