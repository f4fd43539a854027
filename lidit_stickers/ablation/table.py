"""An ablation's table, as Markdown and JSON: claims beside the paper's figures, and variants."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lidit_core.io.atomic import replacing
from lidit_core.llm.hashes import LLMHashes, shown_hashes

from .measuring import RunMeasurements
from .statistics import (
    LEVEL,
    Corrected,
    Difference,
    SeedVariance,
    difference,
    holm,
    seed_variance,
)
from .variants import Ablation, Claim

MARKDOWN, JSON = "ablation.md", "ablation.json"
CHANGES = "changes"  # of the file's fields, by --set; tables of before do not say them
AGREED, CONTRADICTED = "as in the paper", "against the paper"
UNSEEN = "not seen at this size"
MeasurementsByRun = Mapping[tuple[str, int], RunMeasurements]  # variant, seed


@dataclass(frozen=True)
class Told:
    """A claim with what was found of it; gaps in per cent of the reference's."""

    claim: Claim
    by_time: tuple[float, ...]
    gap: float  # of the mean over times, on which the claim is tested
    corrected: Corrected
    score: Difference | None  # of the nearest score; not corrected

    @property
    def verdict(self) -> str:
        """The claim's outcome in words, and whether the paper's order is ours."""
        if not self.corrected.holds:
            return UNSEEN
        if not self.claim.paper:
            return "larger" if self.gap > 0 else "smaller"
        ours, theirs = self.gap > 0, self.claim.paper[0] > self.claim.paper[1]
        return AGREED if ours == theirs else f"**{CONTRADICTED}**"


class Results:
    """The figures of the seeds that every variant is through with, pictures where all have them."""

    def __init__(self, ablation: Ablation, found: MeasurementsByRun) -> None:
        self.ablation = ablation
        whole = [s for s in ablation.seeds if all((n, s) in found for n in ablation.names)]
        self.seeds = tuple(whole)
        self.gaps = {n: np.stack([found[n, s].gaps for s in whole]) for n in ablation.names}
        drawn = [s for s in whole if all(found[n, s].nearest.size for n in ablation.names)]
        self.drawn = tuple(drawn)
        self.nearest = {n: np.array([found[n, s].nearest for s in drawn]) for n in ablation.names}
        self.by_seed = _pooled(self.gaps, self.mean_gaps)
        self.score_by_seed = _pooled(self.nearest, self.nearest.__getitem__)

    def mean_gaps(self, name: str) -> np.ndarray:
        """A variant's gap by seed and scene, the mean over times: (seeds, scenes)."""
        return self.gaps[name].mean(axis=1)

    @property
    def scale(self) -> float:
        """The factor from gaps to per cent of the reference's size; a larger gap stays larger."""
        return 100 / abs(self.reference_gap)

    @property
    def reference_gap(self) -> float:
        """The mean gap of the reference, not above 0 where it does not read its text."""
        return float(self.mean_gaps(self.ablation.reference).mean())

    def told(self) -> list[Told]:
        """Every claim, corrected for how many there are."""
        claims = self.ablation.claims
        found = [self._difference(claim) for claim in claims]
        return [self._told(*each) for each in zip(claims, found, holm(found))]

    def _difference(self, claim: Claim) -> Difference:
        return difference(self.mean_gaps(claim.this), self.mean_gaps(claim.other), self.by_seed)

    def _told(self, claim: Claim, found: Difference, corrected: Corrected) -> Told:
        this, other = self.gaps[claim.this], self.gaps[claim.other]
        by_time = (this - other).mean(axis=(0, 2)) * self.scale
        shown = Corrected(corrected.p, corrected.low * self.scale, corrected.high * self.scale)
        return Told(claim, tuple(by_time), found.mean * self.scale, shown, self._score(claim))

    def _score(self, claim: Claim) -> Difference | None:
        if not self.nearest[claim.this].size:
            return None
        return difference(self.nearest[claim.this], self.nearest[claim.other], self.score_by_seed)


def _pooled(names: Mapping[str, np.ndarray], of) -> SeedVariance:
    if not all(rows.size for rows in names.values()):
        return SeedVariance(0.0, 0)
    return seed_variance(np.array([of(name).mean(axis=1) for name in names]))


def write_tables(
    ablation: Ablation,
    found: MeasurementsByRun,
    about: Mapping[str, Any],
    read: Mapping[str, Mapping[str, LLMHashes]],
    out: Path,
) -> str:
    """Write ablation.md and ablation.json of the seeds that are through; the Markdown.

    Args:
        about: the SHA-256 of the trunk and of the autoencoder by their fields' names, and what
            was changed of the file by --set.
        read: of each run the hashes of its LLMs, by their names; {} where they are not known.
    """
    results = Results(ablation, found)
    llms = {name: dict(told) for run in read.values() for name, told in run.items()}
    unknown = [run for run, told in read.items() if not told]
    said = [_start(ablation, about), *_llms_said(llms, unknown)]
    lines = ["# Ablations", "", " ".join(said), *_section(results)]
    plain = {**about, "llms": llms, "llms_not_known": unknown}
    plain = {**plain, "images": ablation.images, **_plain(results)}
    for name in (score.prompts for score in ablation.also):
        results = Results(ablation, {run: each.also[name] for run, each in found.items()})
        lines += ["", f"## Prompts: {name}", *_section(results)]
        plain.setdefault("also", {})[name] = _plain(results)
    text = "\n".join(lines) + "\n"
    _write(out / MARKDOWN, text)
    _write(out / JSON, json.dumps(plain, indent=1) + "\n")
    return text


def _start(ablation: Ablation, hashes: Mapping[str, str]) -> str:
    trunk, vae = (hashes[name][:12] for name in ("trunk_sha256", "autoencoder_sha256"))
    begun = f"Weights {trunk}" if trunk else "From nothing"
    mode = f", and is measured in mode {ablation.mode}" if ablation.adapter else ""
    return (
        f"{begun}{f', autoencoder {vae}' if vae else ''}; each variant and seed learnt on "
        f"{ablation.images:,} pictures{mode}."
    )


def _llms_said(llms: Mapping[str, LLMHashes], unknown: Sequence[str]) -> Iterator[str]:
    if llms:
        yield f"LLMs: {', '.join(f'{n} {shown_hashes(told)}' for n, told in sorted(llms.items()))}."
    if unknown and not llms:
        yield "Which weights the LLMs of these runs had was not yet recorded."
    elif unknown:
        yield (
            f"Which weights the LLMs had was not yet recorded of {len(unknown)} "
            f"run{'s' * (len(unknown) != 1)}: {', '.join(unknown)}."
        )


def _section(results: Results) -> Iterator[str]:
    told = results.told()
    yield from _claims(results, told)
    yield from _in_words(told)
    yield ""
    yield from _variants(results)


def _claims(results: Results, told: Sequence[Told]) -> Iterator[str]:
    gap, seeds = results.ablation.gap, len(results.seeds)
    yield ""
    yield (
        f"{seeds} seed{'s' * (seeds != 1)}, {gap.scenes} held-out scenes. A difference is this "
        "less other, paired, in per cent of the text gap of "
        f"`{results.ablation.reference}`; the interval is of the mean over times, at the level "
        f"that Holm's correction gives it among {len(told)} claims ({1 - LEVEL:.0%} together). "
        + _seeds_said(results.by_seed)
        + _pictures_said(results)
        + _reading_said(results)
    )
    yield ""
    times = [f"t = {time:g}" for time in gap.times]
    heads = ["paper", "claim", "this", "other", "paper's scores", *times, "mean", "interval"]
    yield from _row([*heads, "p", "verdict", "nearest score, 95 %"], rule=True)
    for each in told:
        yield from _row(_cells(each))


def _in_words(told: Sequence[Told]) -> Iterator[str]:
    """What of the paper holds here, and what does not."""
    theirs = [each for each in told if each.claim.paper]
    found = {
        verdict: [each.claim.says for each in theirs if each.verdict.strip("*") == verdict]
        for verdict in (CONTRADICTED, AGREED, UNSEEN)
    }
    if not theirs:
        return
    yield ""
    for verdict, says in found.items():
        listed = "; ".join(says) or "none"
        yield f"- {verdict.capitalize()}, {len(says)} of {len(theirs)}: {listed}."


def _seeds_said(by_seed: SeedVariance) -> str:
    if not by_seed.freedom:
        return "One seed tells nothing of another: intervals are over scenes alone."
    return (
        "The variance that seeds bring is pooled over variants "
        f"({by_seed.freedom} degrees of freedom)."
    )


def _pictures_said(results: Results) -> str:
    later = len(results.seeds) - len(results.drawn)
    if not results.ablation.score.every or not later:
        return ""
    return f" The pictures of {later} seed{'s' * (later != 1)} are still to be drawn."


def _reading_said(results: Results) -> str:
    if results.reference_gap > 0:
        return ""
    return (
        f" **`{results.ablation.reference}` does not read its text: its text gap is not above 0, "
        "and differences are in per cent of its size.**"
    )


def _cells(told: Told) -> list[str]:
    claim, c = told.claim, told.corrected
    paper = f"{claim.paper[0]:g} against {claim.paper[1]:g}" if claim.paper else ""
    score = ""
    if told.score is not None:
        low, high = told.score.interval()
        score = f"{told.score.mean:+.3f} ({low:+.3f} to {high:+.3f})"
    return [
        f"Table {claim.table}" if claim.table else "", claim.says, claim.this, claim.other, paper,
        *(f"{value:+.1f}" for value in told.by_time), f"{told.gap:+.1f}",
        f"{c.low:+.1f} to {c.high:+.1f}", f"{c.p:.3f}", told.verdict, score,
    ]  # fmt: skip


def _variants(results: Results) -> Iterator[str]:
    times = [f"gap at {time:g}" for time in results.ablation.gap.times]
    yield from _row(["variant", "what it is", *times, "nearest score, by seed"], rule=True)
    for variant in results.ablation.variants:
        gaps = results.gaps[variant.name].mean(axis=(0, 2))
        scores = results.nearest[variant.name]
        by_seed = ", ".join(f"{row.mean():.3f}" for row in scores) if scores.size else ""
        yield from _row([variant.name, variant.says, *(f"{g:.5f}" for g in gaps), by_seed])


def _row(cells: Sequence[str], rule: bool = False) -> Iterator[str]:
    yield f"| {' | '.join(cells)} |"
    if rule:
        yield "|---" * len(cells) + "|"


def _plain(results: Results) -> dict:
    """The table for other programs; the same numbers in every run."""
    runs = {
        name: {
            "gaps": [rows.mean(axis=1).tolist() for rows in results.gaps[name]],
            "nearest": [float(row.mean()) for row in results.nearest[name] if row.size],
        }
        for name in results.ablation.names
    }
    return {
        "reference": results.ablation.reference,
        "seeds": list(results.seeds),
        "times": list(results.ablation.gap.times),
        "runs": runs,
        "claims": [{**asdict(each), "verdict": each.verdict} for each in results.told()],
    }


def _write(path: Path, text: str) -> None:
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")
