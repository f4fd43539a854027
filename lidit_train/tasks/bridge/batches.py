"""Batches of recorded prompts: what the LLMs make of them, and what the teacher did."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lidit_core.bridge.config import BridgeConfig
from lidit_core.bridge.recorded import RecordedPrompts, Target, lengths
from lidit_core.bridge.rows import (
    OwnRows,
    StudentTokens,
    TeacherRows,
    stack_rows,
    student_tokens,
)
from lidit_core.text.encoder import pad_states

from ...batch import Batch
from ...data.caption_states import CaptionReader
from ...data.fetching import Fetched
from ...data.loader import Loader
from ...data.schedule import Schedule, StageBuckets, StepBatch
from ...recipe import Recipe

Kind = TypeVar("Kind", bound="BridgeBatch")

LENGTHS = 4  # buckets of prompts, from short to long, so that few rows are filled up


@dataclass(frozen=True, eq=False)
class ReadPrompts:
    """The prompts of a recording, and the LLMs that read them."""

    config: BridgeConfig
    prompts: RecordedPrompts
    readers: Mapping[int, CaptionReader]  # by LLM; {} = it is enough what the encoder made
    learnt: Sequence[int]  # numbers of prompts
    held_out: Sequence[int]

    def batch(self, numbers: Sequence[int]) -> BridgeBatch:
        """Some prompts, on the CPU."""
        texts = [self.prompts.texts[n] for n in numbers]
        read = {i: reader.read_rows(texts) for i, reader in self.readers.items()}
        students = [
            student_tokens(pad_states(rows), rows, lengths(texts))
            for _, rows in sorted(read.items())
        ]
        targets = [self.prompts.target(n) for n in numbers]
        rows = stack_rows([self.prompts.rows(n) for n in numbers])
        return BridgeBatch(
            pad_sequence([t.sequence for t in targets], True),
            torch.empty(len(numbers), 0),
            torch.ones(len(numbers)),
            {i: tokens.states.to(dtype=torch.float32) for i, tokens in enumerate(students)},
            used={i: tuple(row.used for row in rows) for i, rows in read.items()},
            spans={i: tokens.spans for i, tokens in enumerate(students)},
            rows=rows,
            pooled=_pooled(targets),
            own=None if self.prompts.own is None else self._own(self.prompts.own, numbers, rows),
        )

    @staticmethod
    def _own(prompts: RecordedPrompts, numbers: Sequence[int], rows: TeacherRows) -> OwnRows:
        """What the encoder that is added to made of the prompts."""
        found = [prompts.target(n) for n in numbers]
        return own_rows(found, rows, prompts.teacher.spec.masked)


def _pooled(targets: Sequence[Target]) -> Tensor | None:
    """Stack the pooled vectors, (B, P); None where the encoder has none."""
    pooled = [t.pooled for t in targets if t.pooled is not None]
    return torch.stack(pooled) if pooled else None


def own_rows(found: Sequence[Target], rows: TeacherRows, masked: bool) -> OwnRows:
    """What the encoder that is added to made of prompts, as a batch.

    Args:
        rows: of the prompts, (B, R).
        masked: padding is not read.
    """
    sequence = pad_sequence([t.sequence for t in found], True)
    return OwnRows.of(sequence, _pooled(found), rows, masked)


@dataclass(frozen=True, eq=False)
class PreparedBridge(ReadPrompts):
    """Everything that batches are made of."""

    schedule: Schedule
    folder: Path  # of the run


@dataclass(frozen=True, eq=False)
class BridgeBatch(Batch):
    """Prompts of one step: ``x`` (B, R, C) is what the teacher made of them.

    Of captioned pictures it is their latents (B, C, h, w).
    """

    spans: Mapping[int, Tensor] = field(default_factory=dict)  # (B, L, 2) by LLM
    rows: TeacherRows | None = None
    pooled: Tensor | None = None  # (B, P)
    own: OwnRows | None = None  # of the encoder that is added to

    @property
    def students(self) -> list[StudentTokens]:
        """What each LLM makes of the prompts, in order."""
        return [StudentTokens(self.states[i], self.spans[i]) for i in sorted(self.states)]

    def part(self: Kind, rows: slice) -> Kind:
        assert self.rows is not None  # every batch has them
        return replace(
            self,
            x=self.x[rows],
            noise=self.noise[rows],
            time=self.time[rows],
            states={i: states[rows] for i, states in self.states.items()},
            used={i: used[rows] for i, used in self.used.items()},
            spans={i: spans[rows] for i, spans in self.spans.items()},
            rows=self.rows[rows],
            pooled=None if self.pooled is None else self.pooled[rows],
            own=None if self.own is None else self.own[rows],
            captions=self.captions[rows],
            counted=None if self.counted is None else self.counted[rows],
        )

    def micro_batches(self: Kind, size: int) -> Iterator[Kind]:
        """Parts in order, for a batch is made of prompts of like length."""
        size = size or len(self)
        return (self.part(slice(first, first + size)) for first in range(0, len(self), size))

    def to(self: Kind, device) -> Kind:
        assert self.rows is not None
        return replace(
            self,
            x=self.x.to(device),
            noise=self.noise.to(device),
            time=self.time.to(device),
            states={i: states.to(device) for i, states in self.states.items()},
            spans={i: spans.to(device) for i, spans in self.spans.items()},
            rows=self.rows.to(device),
            pooled=None if self.pooled is None else self.pooled.to(device),
            own=None if self.own is None else self.own.to(device),
        )


class BridgeLoader(Loader):
    """Iterates over a process's batches from the schedule's present step on."""

    def __init__(
        self, ready: PreparedBridge, share: Callable[[int], slice], device: torch.device | str
    ) -> None:
        self.ready, self.share, self.device = ready, share, device
        self.schedule = ready.schedule

    @property
    def llms(self) -> list[str]:
        return [llm.name for llm in self.ready.config.llms]

    def __iter__(self) -> Iterator[tuple[Fetched, Batch]]:
        for plan in self.schedule:
            own = range(len(plan.rows))[self.share(len(plan.rows))]
            yield _fetched(plan), self.batch(plan, own).to(self.device)

    def batch(self, plan: StepBatch, numbers: range) -> BridgeBatch:
        """Some rows of a step, on the CPU."""
        return self.ready.batch([plan.rows[n].index for n in numbers])


def _fetched(plan: StepBatch) -> Fetched:
    """The plan of a step of which everything was read."""
    nothing = torch.empty(0)
    return Fetched(
        plan=plan,
        pictures=None,
        latents=None,
        texts=[],
        states=None,
        zeroed=nothing,
        time=nothing,
        noise=nothing,
        content=None,
        counted=None,
        following=None,
        kept=None,
        features=None,
        replaced=(),
    )


def schedule_of(recipe: Recipe, prompts: RecordedPrompts, learnt: Sequence[int]) -> Schedule:
    """Every prompt once before any comes again, those of like length together."""
    counts = np.array([len(prompts.texts[n]) for n in learnt])
    edges = np.quantile(counts, np.linspace(0, 1, LENGTHS + 1)[1:-1])
    places = np.searchsorted(edges, counts, side="left")
    members = tuple(np.array(learnt)[places == n] for n in range(LENGTHS))
    kept = tuple(bucket for bucket in members if len(bucket))
    stage = StageBuckets(tuple((n, n) for n in range(len(kept))), (kept,))
    return Schedule(recipe, [stage] * len(recipe.stages), (0,))
