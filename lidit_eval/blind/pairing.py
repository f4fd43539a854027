"""Pairs the pictures of two evaluations, prompt by prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from lidit_core.errors import check
from lidit_core.io.hashes import sha256

from ..drawing import FOLDER
from ..items import items_of, prompts_hash, tasks_of
from ..record import read_record_of, step_of
from .page import Pair

SAME = ("prompts_sha256", "count")


def pairs_of(first: Path, second: Path) -> list[Pair]:
    """The pictures that both evaluations have of a prompt, in the prompts' order.

    Raises:
        LiDiTError: a folder is no evaluation, or they are of other prompts, or share no picture.
    """
    ours, theirs = read_record_of(first), read_record_of(second)
    for key in SAME:
        check(
            ours.get(key) == theirs.get(key),
            f"{first} has {key}={ours.get(key)!r} and {second} has {theirs.get(key)!r}; expected "
            "two evaluations of the same prompts with as many pictures of each",
        )
    items = items_of(ours["prompts"])
    check(
        prompts_hash(items) == ours["prompts_sha256"],
        f"the prompts {ours['prompts']!r} are not those that {first} was made of; draw it again",
    )
    both = (ours, first), (theirs, second)
    one, other = (Path(record.get("pictures") or folder / FOLDER) for record, folder in both)
    count, steps = ours["count"], (step_of(ours), step_of(theirs))
    pairs = [
        Pair(task.item.prompt, one / task.name(count, steps[0]), other / task.name(count, steps[1]))
        for task in tasks_of(items, 0, count)
        if not any(task.index % step for step in steps)
    ]
    there = [pair for pair in pairs if pair.first.is_file() and pair.second.is_file()]
    check(
        bool(there),
        f"{first} and {second} have no picture in common; expected some of one name in {one} and "
        f"{other}, as seen from where lidit eval was typed",
    )
    return there


def identity_of(pairs: Sequence[Pair], seed: int) -> str:
    """What tells two pages apart, so that no choices of one are taken for the other's."""
    parts = [str(seed), *(sha256(path) for p in pairs for path in (p.first, p.second))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
