"""The share of the token ids of other prompts that a collection holds often enough to be learnt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

OFTEN = (1, 5, 20)  # times that an id is seen
Tokenise = Callable[[str], Sequence[int]]


@dataclass(frozen=True)
class Coverage:
    """What a collection holds of a file of other prompts."""

    name: str
    prompts: int
    ids: int  # different ones
    of_ids: tuple[float, ...]  # share of those, for each of OFTEN
    of_tokens: tuple[float, ...]  # share of all tokens of the other prompts


def coverage(tokenise: Tokenise, collection: Counter[int], name: str, others: Sequence[str]):
    """Compare other prompts with the ids that a collection counts."""
    counts = Counter(id for line in others for id in tokenise(line))
    return Coverage(
        name,
        len(others),
        len(counts),
        tuple(_share(counts, collection, often, False) for often in OFTEN),
        tuple(_share(counts, collection, often, True) for often in OFTEN),
    )


def _share(counts: Counter[int], collection: Counter[int], often: int, weighed: bool) -> float:
    """The share of ids that the collection has so often, each counted as often as it comes."""
    weights = {id: count if weighed else 1 for id, count in counts.items()}
    seen = sum(weight for id, weight in weights.items() if collection[id] >= often)
    return seen / max(1, sum(weights.values()))


def table(rows: Sequence[Coverage]) -> str:
    """Markdown: a row a file, the shares in percent."""
    heads = [f"{what} seen {often}×" for what in ("ids", "tokens") for often in OFTEN]
    lines = [["prompts of", "prompts", "ids", *heads]]
    for row in rows:
        shares = [f"{100 * share:.1f} %" for share in (*row.of_ids, *row.of_tokens)]
        lines.append([row.name, f"{row.prompts:,}", f"{row.ids:,}", *shares])
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
