"""Scores of the demo checkpoint alone and with its adapter, written into a document.

    python -m lidit_stickers.making.adapter_scores --out runs/adapter-scores --write docs/llmdiff.md

Each mode is what `lidit eval` makes of it on the fixed prompts, in a folder under the SHA-256 of
all three files, so that the command goes on where it stopped and never mixes two versions. The
document marks the table's place as `adapter` (lidit_stickers.making.tables).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence

from lidit_core.demo.checkpoint import SHIPPED
from lidit_core.errors import exit_status
from lidit_core.io.hashes import sha256
from lidit_core.paths import SHIPPED_WEIGHTS
from lidit_eval.command import evaluate
from lidit_eval.pairs import compare
from lidit_eval.report import Judged, scores_of

from .tables import options_of, write

COMMAND = (
    "python -m lidit_stickers.making.adapter_scores --out runs/adapter-scores "
    "--write docs/llmdiff.md"
)
TABLE = "adapter"  # as documents mark it
ADAPTER = "stickers-adapter.safetensors"
AUTOENCODER = "stickers-vae.safetensors"
MEASURES = ("strict", "nearest")
BASE = "base"
MODES = {BASE: "the checkpoint", "add": "mode add", "replace": "mode replace"}


def hashes() -> tuple[str, str, str]:
    """How the SHA-256 of the checkpoint, of its adapter and of its autoencoder begin."""
    names = (SHIPPED, ADAPTER, AUTOENCODER)
    base, adapter, vae = (sha256(SHIPPED_WEIGHTS / name)[:12] for name in names)
    return base, adapter, vae


def drawn_by() -> str:
    """The files that draw, as a table names them."""
    base, adapter, vae = hashes()
    return f"Checkpoint {base}, adapter {adapter}, autoencoder {vae}"


def table(judged: Mapping[str, Sequence[Judged]], every: int = 1) -> str:
    """The table in Markdown: strict / nearest of each mode, and what the adapter gains in pairs.

    Args:
        judged: each mode's pictures.
        every: only every so many prompts were drawn, which is said.
    """
    fewer = f" --every {every}" * (every > 1)
    head = f"{drawn_by()}; `{COMMAND}{fewer}`:"
    return "".join(f"{line}\n" for line in _lines(judged, head))


def _lines(judged: Mapping[str, Sequence[Judged]], head: str) -> Iterator[str]:
    categories = [score.category for score in scores_of(judged[BASE], MEASURES[:1])]
    yield from (head, "", f"| {len(judged[BASE]):,} pictures | {' | '.join(categories)} |")
    yield "|---" * (1 + len(categories)) + "|"
    for mode, title in MODES.items():
        strict, nearest = (scores_of(judged[mode], [measure]) for measure in MEASURES)
        cells = (f"{s.score:.3f} / {n.score:.3f}" for s, n in zip(strict, nearest, strict=True))
        yield f"| {title} | {' | '.join(cells)} |"
    for mode, title in MODES.items():
        if mode != BASE:
            yield _gain(title, judged[mode], judged[BASE])


def _gain(title: str, this: Sequence[Judged], base: Sequence[Judged]) -> str:
    """A sentence on what a mode gains over all prompts, with its 95 % intervals."""
    gained = [compare(this, base, [measure])[-1] for measure in MEASURES]
    told = (
        f"{change.measure} {change.difference:+.3f} ({change.low:+.3f} to {change.high:+.3f})"
        for change in gained
    )
    return f"\nIn {title} the same prompts gain, in pairs: {', '.join(told)}."


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_of(__doc__, (TABLE,), arguments)
    out, every = options.out / "-".join(hashes()), ["--every", str(options.every)]
    model = [SHIPPED.removesuffix(".safetensors"), "--adapter", str(SHIPPED_WEIGHTS / ADAPTER)]
    judged = {
        mode: evaluate(*model, "--mode", mode, *every, "--out", str(out / mode)) for mode in MODES
    }
    made = {TABLE: table(judged, options.every)}
    for document in options.write:
        write(document, made)
    print(made[TABLE], end="")


if __name__ == "__main__":
    sys.exit(exit_status("adapter_scores", main))
