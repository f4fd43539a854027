"""The pictures that a step trains on: every picture of a bucket once before any comes again.

A step's choices are drawn from the seed and the step; how far each pool has been read is the
position of the data, which a checkpoint holds.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch

from lidit_core.errors import LiDiTError

from ..recipe import Recipe, Stage, Subset
from ..units import as_times

log = logging.getLogger(__name__)

Pool = tuple[int, int, int]  # stage, source, bucket


@dataclass(frozen=True)
class StepPicture:
    """One picture of a batch."""

    source: int
    index: int  # in the source
    bucket: int
    place: int  # in the pool of its source and bucket


@dataclass(frozen=True)
class StepBatch:
    """What one step trains on, over all processes."""

    step: int
    stage: int
    branches: tuple[int, ...]
    bucket: int
    rows: tuple[StepPicture, ...]
    position: dict[str, int]  # how far each pool has been read after this step


@dataclass(frozen=True, eq=False)
class StageBuckets:
    """The pictures of one stage by bucket."""

    sizes: tuple[tuple[int, int], ...]  # (width, height) of each bucket, pixels
    members: tuple[tuple[np.ndarray, ...], ...]  # [source][bucket]: indices into the source

    def following(self, row: StepPicture) -> StepPicture:
        """The picture that stands in for one that cannot be read: the next of its pool."""
        members = self.members[row.source][row.bucket]
        place = (row.place + 1) % len(members)
        return StepPicture(row.source, int(members[place]), row.bucket, place)


def seeded(*parts: int) -> torch.Generator:
    """A generator that only these numbers decide, however near they are to one another."""
    words = np.random.SeedSequence([part & 0xFFFFFFFFFFFF for part in parts]).generate_state(1)
    return torch.Generator().manual_seed(int(words[0]))


def name_number(name: str) -> int:
    """A number of 48 bits that a picture's name alone decides."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big")


def held_out(names: Sequence[str], share: float) -> np.ndarray:
    """The pictures of a source not trained on, (N,) bool: chosen by name, so always the same ones.

    It is one at least, but where there is no other; pictures of one name are on one side.
    """
    distinct = sorted(set(names), key=lambda name: (name_number(name), name))
    held = set(distinct[: held_out_count(len(distinct), share)])
    return np.array([name in held for name in names], dtype=bool)


def held_out_count(pictures: int, share: float) -> int:
    """How many of a source's pictures are not trained on."""
    return min(max(1, round(share * pictures)), pictures - 1) if share else 0


def stage_at(step: int, stages: Sequence[Stage]) -> tuple[int, Stage]:
    """Give the stage that a step belongs to, and its number; after the last step, the last."""
    for number, stage in enumerate(stages):
        if step < stage.steps:
            return number, stage
        step -= stage.steps
    return len(stages) - 1, stages[-1]


@dataclass(eq=False)
class Schedule:
    """Iterates over the plans of the steps from ``step`` on."""

    recipe: Recipe
    stages: Sequence[StageBuckets]
    branches: tuple[int, ...]  # all that the model has
    step: int = 0
    position: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for number, stage in enumerate(self.recipe.stages):
            for subset in self._subsets(stage):
                if not self._shares(number, subset.branches).sum():
                    raise LiDiTError(
                        f"stage {number + 1} has no picture whose caption branches "
                        f"{list(subset.branches)} can read; give it a source that they can, or "
                        "leave them out of its subsets"
                    )

    def __iter__(self):
        while self.step < self.recipe.steps:
            yield self.next()

    def next(self) -> StepBatch:
        """The plan of the present step; the schedule goes on to the following one."""
        number, stage = stage_at(self.step, self.recipe.stages)
        g = seeded(self.recipe.seed, self.step)
        subsets = self._subsets(stage)
        branches = subsets[_draw([s.weight for s in subsets], g)].branches
        shares = self._shares(number, branches)  # (sources, buckets)
        bucket = _draw(shares.sum(0), g)
        sources = torch.multinomial(
            torch.from_numpy(shares[:, bucket]), stage.batch, replacement=True, generator=g
        )
        rows = tuple(self._take((number, int(source), bucket)) for source in sources)
        plan = StepBatch(self.step, number, branches, bucket, rows, dict(self.position))
        self.step += 1
        return plan

    def _subsets(self, stage: Stage) -> tuple[Subset, ...]:
        return stage.subsets or (Subset(self.branches),)

    def _shares(self, number: int, branches: tuple[int, ...]) -> np.ndarray:
        """How often each bucket is drawn, relative to the others, by source: (sources, buckets)."""
        stage = self.recipe.stages[number]
        chosen = stage.sources or range(len(self.recipe.data.sources))
        shares = np.zeros((len(self.recipe.data.sources), len(self.stages[number].sizes)))
        for i in chosen:
            source = self.recipe.data.sources[i]
            if not source.branches or set(source.branches) & set(branches):
                counts = [len(members) for members in self.stages[number].members[i]]
                shares[i] = np.array(counts) * source.weight
        return shares

    def times_seen(self) -> list[tuple[int, float]]:
        """Each source's pictures, and how often one is seen over the whole run, on average.

        Pictures that stand in several stages count once; those that no stage shows are left out.
        """
        drawn, shown = np.zeros(len(self.recipe.data.sources)), []
        for number, stage in enumerate(self.recipe.stages):
            subsets = self._subsets(stage)
            total = sum(subset.weight for subset in subsets)
            for subset in subsets:
                shares = self._shares(number, subset.branches).sum(1)
                images = stage.steps * stage.batch * subset.weight / total
                drawn += images * shares / shares.sum()
        for source in range(len(drawn)):
            pools = [members for stage in self.stages for members in stage.members[source]]
            shown.append(len(np.unique(np.concatenate(pools))))
        return [(count, times / max(count, 1)) for count, times in zip(shown, drawn.tolist())]

    def tell_seen(self) -> None:
        """Say how often each picture will be seen, source by source."""
        for source, (count, times) in zip(self.recipe.data.sources, self.times_seen()):
            told = "source %s: each of its %d pictures is seen about %s over the whole run"
            log.info(told, source.path, count, as_times(times))

    def _take(self, pool: Pool) -> StepPicture:
        """The pool's next picture, in an order that is new each time round."""
        number, source, bucket = pool
        name = f"{number}.{source}.{bucket}"
        taken = self.position.get(name, 0)
        self.position[name] = taken + 1
        members = self.stages[number].members[source][bucket]
        lap, place = divmod(taken, len(members))
        place = int(_order(self.recipe.seed, pool, lap, len(members))[place])
        return StepPicture(source, int(members[place]), bucket, place)


@lru_cache(maxsize=64)
def _order(seed: int, pool: Pool, lap: int, count: int) -> torch.Tensor:
    return torch.randperm(count, generator=seeded(seed, *pool, lap, count))


def _draw(weights: Sequence[float] | np.ndarray, g: torch.Generator) -> int:
    shares = torch.as_tensor(np.asarray(weights, dtype=np.float64))
    return int(torch.multinomial(shares, 1, generator=g))
