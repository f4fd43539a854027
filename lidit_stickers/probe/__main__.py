"""What an LLM understood of a prompt, by a linear probe, beside a model's text gap.

    python -m lidit_stickers.probe --out runs/probe
    python -m lidit_stickers.probe --out runs/probe --gaps runs/ablate-readings/ablation.json

From the mean of a prompt's states a ridge regression tells kinds, numbers, colours, and which of
two things stands left of the other or above it. It is fitted on captions of training, and judged
on prompts that hold a combination which training never had, and on words that it never had.
An LLM with random weights tells knowledge from the mere identity of tokens, and a bag of words from
their order. --gaps puts the text gap of a transformer that learnt to read the same beside it,
by recipes/ablate-readings.yaml.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from torch import Tensor

from lidit_core.branches import named_sources
from lidit_core.errors import check, exit_status
from lidit_core.llm.loading import source_fingerprint

from ..llm_copies import COPIED, COPIES, write_lesser
from .facts import FACTS, JUDGED, asked, learnt
from .readings import READINGS, ProbedReading, bag_of_words, mean_states
from .report import SharesByFact, read_gaps, write_report
from .ridge import Probe

NAMES = tuple(reading.name for reading in READINGS)


def features(
    readings: Sequence[ProbedReading], known: Sequence[str], texts: Sequence[str], sources: Mapping
) -> dict[str, Tensor]:
    """Each reading's features (texts, D), by its name.

    Args:
        known: the texts that are learnt from.
        sources: where LLMs are that are not found under their names.
    """
    found = {}
    ordered = sorted(readings, key=lambda r: r.llm)
    for llm, group in groupby(ordered, key=lambda r: r.llm):
        group = list(group)
        if llm:
            found |= mean_states(group, texts, sources)
        else:
            found |= {reading.name: bag_of_words(known, texts) for reading in group}
    return found


def probed(
    readings: Sequence[ProbedReading], captions: int, every: int, sources: Mapping[str, str]
) -> SharesByFact:
    """What every reading's probes read of each list of prompts."""
    lists = {"": learnt(captions), **asked(every)}
    texts = [caption.text for listed in lists.values() for caption in listed]
    read = features(readings, texts[:captions], texts, sources)
    return {reading.name: _shares(read[reading.name], lists) for reading in readings}


def _shares(read: Tensor, lists: Mapping[str, list]) -> dict[str, dict]:
    parts = dict(zip(lists, read.split([len(listed) for listed in lists.values()])))
    probes = [Probe(fact, lists[""], parts[""]) for fact in FACTS]
    found: dict[str, dict] = {}
    for where in list(lists)[1:]:
        asked_for = [probe for probe in probes if probe.fact.name in JUDGED[where]]
        shares = {p.fact.name: p.share(lists[where], parts[where]) for p in asked_for}
        found[where] = {name: share for name, share in shares.items() if share is not None}
    return found


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lidit_stickers.probe",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="for probe.md and probe.json")
    add("--captions", type=int, default=3000, metavar="N", help="of training to fit on (3000)")
    add("--every", type=int, default=1, metavar="N", help="only every Nth prompt is judged (1)")
    add(
        "--readings", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES)
    )
    add("--llm", action="append", default=[], metavar="NAME=LLM", help="where an LLM is; repeat")
    add("--gaps", type=Path, metavar="FILE", help="the ablation.json of `lidit ablate`")
    options = parser.parse_args(words)
    check(options.captions >= 100, f"--captions is {options.captions}; expected 100 or more")
    check(options.every >= 1, f"--every is {options.every}; expected 1 or more")
    gaps, trunk = read_gaps(options.gaps) if options.gaps else ({}, "")
    readings = [reading for reading in READINGS if reading.name in options.readings]
    known = {COPIED, *(reading.llm for reading in readings if reading.llm)}
    sources = named_sources(options.llm, known)
    for name in {reading.llm for reading in readings} & {*COPIES} - {*sources}:
        sources[name] = str(options.out / name)
        write_lesser(name, sources.get(COPIED, COPIED), options.out / name)
    found = probed(readings, options.captions, options.every, sources)
    llms = sorted({reading.llm for reading in readings if reading.llm})
    record = {
        "captions": options.captions,
        "every": options.every,
        "llms": {llm: source_fingerprint(sources.get(llm, llm)) for llm in llms},
        "trunk_sha256": trunk,
    }
    print(write_report(readings, found, gaps, record, options.out), end="")


if __name__ == "__main__":
    sys.exit(exit_status("probe", main))
