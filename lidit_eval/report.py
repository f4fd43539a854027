"""What an evaluation found: scores by category with intervals, failures, and sheets of pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lidit_core.io.atomic import replacing

from .drawing import load_picture
from .grids import grid
from .items import DrawingTask
from .judges.judge import Judge, Verdict
from .statistics import bootstrap_by_group, interval

SHOWN = 64  # pictures of a category's sheet
LISTED = 200  # failures in the Markdown report; the JSON report has all
MEAN = "mean of categories"
BY_CATEGORY = ("geneval",)  # benchmarks whose overall score is that mean


@dataclass(frozen=True)
class Score:
    """The mean over the prompts of one category, by one measure."""

    category: str
    measure: str
    prompts: int
    pictures: int
    score: float  # 0 to 1, but for cosines
    low: float  # of the 95 % interval
    high: float


@dataclass(frozen=True)
class Judged:
    """One picture and what was said of it."""

    task: DrawingTask
    path: Path
    verdict: Verdict

    def hit(self, measure: str) -> bool:
        """Whether the picture meets its prompt in full."""
        return self.verdict.scores[measure] >= 1

    def row(self, seeded: bool) -> dict[str, Any]:
        """The picture's row in the report, with its seed where it was drawn from one."""
        return {
            "picture": self.path.name,
            "category": self.task.item.category,
            "prompt": self.task.item.prompt,
            **({"seed": self.task.seed} if seeded else {}),
            "scores": dict(self.verdict.scores),
            "seen": self.verdict.seen,
        }


def by_prompt(judged: Sequence[Judged], measure: str) -> dict[int, float]:
    """The mean over those pictures of each prompt that have this score, by the prompt's number."""
    found: dict[int, list[float]] = {}
    for each in judged:
        if measure in each.verdict.scores:
            found.setdefault(each.task.index, []).append(each.verdict.scores[measure])
    return {index: sum(values) / len(values) for index, values in found.items()}


def scores_of(judged: Sequence[Judged], measures: Sequence[str]) -> list[Score]:
    """The scores of each category, in the prompts' order, and last of all prompts together.

    A measure that no picture of a category has is left out there.
    """
    categories = list(dict.fromkeys(each.task.item.category for each in judged))
    groups = [(c, [j for j in judged if j.task.item.category == c]) for c in categories]
    if len(groups) != 1:
        groups.append(("all", list(judged)))
    scores = [_score(name, group, m) for name, group in groups for m in measures]
    return [score for score in scores if score.prompts]


def _score(category: str, group: Sequence[Judged], measure: str) -> Score:
    values = list(by_prompt(group, measure).values())
    low, high = interval(values)
    mean = sum(values) / len(values) if values else 0.0
    pictures = sum(measure in each.verdict.scores for each in group)
    return Score(category, measure, len(values), pictures, mean, low, high)


def mean_of_categories(judged: Sequence[Judged], measures: Sequence[str]) -> list[Score]:
    """The mean of the categories' scores, as GenEval's evaluator has it, not of all prompts."""
    categories = dict.fromkeys(each.task.item.category for each in judged)
    found = []
    for measure in measures:
        by_category = [[j for j in judged if j.task.item.category == c] for c in categories]
        values = [list(by_prompt(group, measure).values()) for group in by_category]
        values, told = [v for v in values if v], [j for j in judged if measure in j.verdict.scores]
        if len(values) > 1:
            mean = sum(sum(v) / len(v) for v in values) / len(values)
            counts = sum(map(len, values)), len(told)
            found.append(Score(MEAN, measure, *counts, mean, *bootstrap_by_group(values)))
    return found


def write_report(
    folder: Path, record: Mapping[str, Any], judged: Sequence[Judged], judge: Judge
) -> str:
    """Write report.md, report.json and a sheet for each category; the Markdown."""
    measures, tells = judge.measures, judge.tells
    scores = scores_of(judged, measures)
    if str(record["prompts"]).partition(":")[0] in BY_CATEGORY:
        scores += mean_of_categories(judged, measures)
    failures = [j for j in judged if tells and not j.hit(tells)]
    prompts = {each.task.index: each.task.item.prompt for each in judged}
    cut = sum(judge.cut(prompt) > 0 for prompt in prompts.values())
    text = _markdown(record, scores, judge, failures, _told_of(cut, len(prompts), judge))
    _write(folder / "report.md", text)
    found = {
        "record": dict(record),
        "scores": [asdict(score) for score in scores],
        "cut_prompts": cut,
        "failures": [failure.row("seed" in record) for failure in failures],
    }
    _write(folder / "report.json", json.dumps(found, indent=1) + "\n")
    for category, sheet in _sheets(judged, tells):
        path = folder / "grids" / f"{category.replace(' ', '-').replace('/', '-')}.png"
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as beside:
            sheet.save(beside, format="PNG")
    return text


def _markdown(
    record: Mapping[str, Any],
    scores: Sequence[Score],
    judge: Judge,
    failures: Sequence[Judged],
    note: str,
) -> str:
    lines = ["# Evaluation", "", "| | |", "|---|---|"]
    lines += [f"| {key} | {_shown(value)} |" for key, value in record.items()]
    if scores:
        lines += ["", *_table(scores)]
    lines += ["", note] if note else []
    if failures:
        lines += ["", f"## Failures, by {judge.tells} ({len(failures)})", ""]
        lines += [
            f"- `{f.path.name}` {f.task.item.prompt!r}{_seed(record, f)}: {f.verdict.seen}"
            for f in failures[:LISTED]
        ]
    return "\n".join(lines) + "\n"


def _seed(record: Mapping[str, Any], judged: Judged) -> str:
    """A picture's seed; "" where it was made elsewhere."""
    return f", seed {judged.task.seed}" if "seed" in record else ""


def _told_of(cut: int, prompts: int, judge: Judge) -> str:
    """A sentence on prompts that the judge did not read to their end; "" where there are none."""
    were = "was" if cut == 1 else "were"
    told = f"{cut} of {prompts} prompts {were} longer than {judge.name} reads and {were} cut."
    return told if cut else ""


def _shown(value: Any) -> str:
    return str(value) if not isinstance(value, (dict, list)) else json.dumps(value)


def _table(scores: Sequence[Score]) -> Iterator[str]:
    """A row for each category, and two columns for each measure that any picture has."""
    rows: dict[str, dict[str, Score]] = {}
    for score in scores:
        rows.setdefault(score.category, {})[score.measure] = score
    measures = list(dict.fromkeys(score.measure for score in scores))
    yield "| category | prompts | " + " | ".join(f"{m} | 95 %" for m in measures) + " |"
    yield "|---" * (2 + 2 * len(measures)) + "|"
    for category, row in rows.items():
        prompts = max(score.prompts for score in row.values())
        cells = " | ".join(_cell(row.get(measure)) for measure in measures)
        yield f"| {category} | {prompts} | {cells} |"


def _cell(score: Score | None) -> str:
    return f"{score.score:.3f} | {score.low:.3f} to {score.high:.3f}" if score else " | "


def _sheets(judged: Sequence[Judged], measure: str) -> Iterator[tuple[str, Any]]:
    """A sheet for each category, of pictures spread evenly over it."""
    for category in dict.fromkeys(each.task.item.category for each in judged):
        group = [each for each in judged if each.task.item.category == category]
        chosen = group[:: max(1, -(-len(group) // SHOWN))]
        pictures = [load_picture(each.path) for each in chosen]
        labels = [f"{each.task.item.prompt}\n> {each.verdict.seen}" for each in chosen]
        failed = [bool(measure) and not each.hit(measure) for each in chosen]
        yield category, grid(pictures, labels, failed)


def _write(path: Path, text: str) -> None:
    with replacing(path) as beside:
        beside.write_bytes(text.encode("utf-8", "surrogatepass"))
