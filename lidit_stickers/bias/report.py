"""The report on bias: Markdown, JSON and a plot."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from lidit_core.io.atomic import replacing

from ..many_facts import PAIRED
from .figures import Apart, Bias, Figure, Runs, apart, biases, curves
from .plot import Line, Panel, svg

MARKDOWN, JSON, PLOT = "bias.md", "bias.json", "bias.svg"
Curves = Mapping[str, Mapping[int, Sequence[Figure]]]


def write_report(found: Mapping[str, Runs], out: Path) -> str:
    """Write bias.md, bias.json and bias.svg; the Markdown."""
    each, between, places = biases(found), apart(found), curves(found)
    text = "\n".join([*_biases(found, each), *_apart(between), *_places(places)]) + "\n"
    plain = {
        "files": {name: [run.model for run in runs] for name, runs in found.items()},
        "models": {name: asdict(bias) for name, bias in each.items()},
        "differences": [asdict(one) for one in between],
        "places": {
            name: {str(n): [asdict(p) for p in points] for n, points in by.items()}
            for name, by in places.items()
        },
    }
    _write(out / MARKDOWN, text)
    _write(out / JSON, json.dumps(plain, indent=1) + "\n")
    _write(out / PLOT, svg(_panels(each, places)))
    return text


def _biases(found: Mapping[str, Runs], each: Mapping[str, Bias]) -> Iterator[str]:
    some = next(iter(found.values()))[0]
    yield "# Positional bias"
    yield ""
    yield (
        f"{len(some.early)} requests with number and colour early and late, and {len(some.pairs)} "
        "lists of coloured things in both orders; intervals of 95 % by the bootstrap over "
        "requests. Positive: what is said late is lost."
    )
    yield ""
    drawn_by = (f"{name}: {', '.join(r.model for r in runs)}" for name, runs in found.items())
    yield f"Models: {'; '.join(drawn_by)}."
    yield ""
    heads = "early | late | early − late | error, late − early (×1000) | first − last"
    yield f"| model | runs | {heads} |"
    yield "|---" * 7 + "|"
    for name, bias in each.items():
        yield (
            f"| {name} | {len(found[name])} | {bias.early:.3f} | {bias.late:.3f} "
            f"| {_shown(bias.score)} | {_shown(bias.error, 1000)} | {_shown(bias.first_last)} |"
        )


def _apart(between: Sequence[Apart]) -> Iterator[str]:
    if not between:
        return
    yield from ("", "## The bias of one less that of the other", "")
    yield "| one | other | score | error (×1000) | first − last | by the score |"
    yield "|---" * 6 + "|"
    for each in between:
        said = f"{each.one} loses {'more' if each.score.mean > 0 else 'less'}"
        yield (
            f"| {each.one} | {each.other} | {_shown(each.score)} | {_shown(each.error, 1000)} "
            f"| {_shown(each.first_last)} | {said if each.score.clear else 'not seen'} |"
        )


def _places(places: Curves) -> Iterator[str]:
    for n in PAIRED:
        rows = {name: by[n] for name, by in places.items() if by[n]}
        if not rows:
            continue
        yield from ("", f"## {n} coloured things: what holds at each place", "")
        yield f"| model | {' | '.join(f'place {k + 1}' for k in range(n))} |"
        yield "|---" * (n + 1) + "|"
        for name, points in rows.items():
            cells = (f"{p.mean:.3f} ({p.low:.3f} to {p.high:.3f})" for p in points)
            yield f"| {name} | {' | '.join(cells)} |"


def _panels(each: Mapping[str, Bias], places: Curves) -> list[Panel]:
    """The biases, and the curves of each number of pairs."""
    names = list(each)
    own = [
        Line(name, [each[name].score if other == name else None for other in names])
        for name in names
    ]
    panels = [Panel("early − late, share of facts", names, own, joined=False)]
    for n in PAIRED:
        lines = [Line(name, by[n]) for name, by in places.items() if by[n]]
        if lines:
            ticks = [f"place {k + 1}" for k in range(n)]
            panels.append(Panel(f"{n} pairs: share that holds", ticks, lines, joined=True))
    return panels


def _shown(value: Figure, factor: float = 1) -> str:
    mean, low, high = (factor * x for x in (value.mean, value.low, value.high))
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"


def _write(path: Path, text: str) -> None:
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")
