"""Scores of the weights that ship, drawn, judged and written into the documents.

    python -m lidit_stickers.making.scores --out runs/scores \
        --write README.md docs/results.md docs/reports.md

Each list of prompts is what `lidit eval` makes of it, in a folder of its own under the SHA-256 of
the weights and of their autoencoder, so that the command goes on where it stopped and never mixes
two versions. Documents mark the tables' places (lidit_stickers.making.tables).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lidit_core.checkpoints.lidit import read_config
from lidit_core.errors import exit_status
from lidit_core.io.hashes import sha256
from lidit_core.shipped import find_model, find_vae
from lidit_eval.command import evaluate
from lidit_eval.report import Judged, Score, scores_of

from .tables import options_of, write

COMMAND = (
    "python -m lidit_stickers.making.scores --out runs/scores "
    "--write README.md docs/results.md docs/reports.md"
)
MEASURES = ("strict", "nearest")
FACTS = ("facts, strict", "facts, nearest")
TABLES = ("fixed", "lists")  # as documents mark them
TARGETS = {  # strict, nearest
    "single object": (0.90, 0.97),
    "two objects": (0.80, 0.93),
    "position": (0.85, 0.93),
    "counting": (0.75, 0.90),
    "background": (0.99, 0.99),
    "colour": (0.80, 0.95),
}


@dataclass(frozen=True)
class PromptList:
    """One list of prompts and who draws it.

    Args:
        prompts: its name for `lidit eval`.
        llms: those that read it; () = the model's own.
        every: only every so many prompts.
        measures: of the table's two scores.
    """

    title: str
    drawn_by: str
    prompts: str
    model: str = "stickers"
    llms: tuple[str, ...] = ()
    every: int = 1
    measures: tuple[str, str] = MEASURES

    @property
    def folder(self) -> str:
        return "-".join((self.prompts, self.model, *self.llms))

    def words(self, out: Path, every: int) -> list[str]:
        """What `lidit eval` is told."""
        llms = [word for llm in self.llms for word in ("--llm", llm)]
        every = max(every, self.every)
        where = ["--every", str(every), "--out", str(out / self.folder)]
        return [self.model, "--prompts", self.prompts, *llms, *where]


FIXED = PromptList("fixed prompts, held out", "`stickers`", "evaluation")
LISTS = (
    FIXED,
    PromptList("every third of them", "`stickers-duo`", "evaluation", "stickers-duo", every=3),
    PromptList(
        "every third of them", "Gemma 3 alone", "evaluation", llms=("gemma-3-270m",), every=3
    ),
    PromptList("two things, each in a colour of its own", "`stickers`", "attribution"),
    PromptList("five to eight facts, share that holds", "`stickers`", "dense", measures=FACTS),
    PromptList("other wordings, held out", "`stickers`", "paraphrases"),
    PromptList("30 to 90 tokens", "`stickers`", "long"),
    PromptList("the same requests in short", "`stickers`", "long-in-short"),
    PromptList("unseen words", "`stickers`", "synonyms"),
    PromptList("Chinese", "`stickers-duo`", "chinese", "stickers-duo"),
    PromptList("Chinese and English in one sentence", "`stickers-duo`", "mixed", "stickers-duo"),
)


REPORTS = {"stickers": FIXED, "duo": LISTS[1]}  # as documents mark whole reports, with failures


def weights() -> tuple[str, str]:
    """How the SHA-256 of the weights and of their autoencoder begin."""
    path, _ = find_model("stickers")
    vae = find_vae(read_config(path).latent, path)
    return sha256(path)[:12], sha256(vae)[:12]


def tables(judged: dict[PromptList, Sequence[Judged]], every: int = 1) -> dict[str, str]:
    """The tables in Markdown, by the names that documents mark.

    Args:
        every: only every so many prompts were drawn, which the tables say.
    """
    made = zip(TABLES, (_fixed(judged[FIXED]), _lists(judged)), strict=True)
    return {name: _head(every) + "".join(f"{line}\n" for line in lines) for name, lines in made}


def reports(out: Path, every: int = 1) -> dict[str, str]:
    """The reports of the two models on the fixed prompts, as `tables` gives what is told of them.

    Args:
        out: folder of the evaluations.
    """
    told = {}
    for name, each in REPORTS.items():
        report = (out / each.folder / "report.md").read_text(encoding="utf-8")
        text = report.split("\n", 1)[1].strip().replace("\n## ", "\n### ")
        told[name] = f"{_head(every)}{text}\n"
    return told


def _head(every: int) -> str:
    """What drew the pictures, and the command; only every so many prompts are told."""
    fewer = f" --every {every}" * (every > 1)
    model, vae = weights()
    return f"Weights {model}, autoencoder {vae}; `{COMMAND}{fewer}`:\n\n"


def _fixed(judged: Sequence[Judged]) -> Iterator[str]:
    """A column for each category of the fixed prompts."""
    scores = {(s.category, s.measure): s for s in scores_of(judged, MEASURES)}
    yield f"| {len(judged):,} pictures | " + " | ".join(TARGETS) + " |"
    yield "|---" * (1 + len(TARGETS)) + "|"
    for place, measure in enumerate(MEASURES):
        row = [scores[category, measure] for category in TARGETS]
        aims = (f"{TARGETS[category][place]:.2f}" for category in TARGETS)
        yield f"| {measure}, target | " + " | ".join(aims) + " |"
        yield f"| {measure} | " + " | ".join(f"{s.score:.3f}" for s in row) + " |"
        yield "| | " + " | ".join(_interval(s) for s in row) + " |"


def _lists(judged: dict[PromptList, Sequence[Judged]]) -> Iterator[str]:
    """A row for each list of prompts."""
    yield "| prompts | drawn by | number | strict | 95 % | nearest | 95 % |"
    yield "|---|---|---|---|---|---|---|"
    for each, found in judged.items():
        alike = [_of_all(found, measure) for measure in each.measures]
        cells = " | ".join(f"{s.score:.3f} | {_interval(s)}" for s in alike)
        yield f"| {each.title} | {each.drawn_by} | {len(found)} | {cells} |"


def _of_all(judged: Sequence[Judged], measure: str) -> Score:
    return scores_of(judged, [measure])[-1]


def _interval(score: Score) -> str:
    return f"{score.low:.3f}–{score.high:.3f}"


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_of(__doc__, (*TABLES, *REPORTS), arguments)
    out = options.out / "-".join(weights())
    judged: dict[PromptList, Sequence[Judged]]
    judged = {each: evaluate(*each.words(out, options.every)) for each in LISTS}
    made = tables(judged, options.every)
    for document in options.write:
        write(document, {**made, **reports(out, options.every)})
    print("\n".join(made.values()), end="")


if __name__ == "__main__":
    sys.exit(exit_status("scores", main))
