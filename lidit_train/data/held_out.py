"""Pictures that are never trained on, whose loss tells how a run does.

Which they are, their captions, noise and times are the same at every measurement, in every run over
the same pictures, whatever it trains, and however many processes share it.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass

import torch

from lidit_core.diffusion.times import even_times
from lidit_core.errors import LiDiTError, listed

from ..input_spec import InputSpec
from ..recipe import Recipe, Subset
from .fetching import Fetched, Fetcher
from .prepare import Prepared
from .schedule import StepBatch, name_number, seeded

log = logging.getLogger(__name__)

ROWS = 4  # samples measured at once


@dataclass(frozen=True)
class Sample:
    """One picture at one time."""

    source: int
    index: int
    time: int  # place among the times


@dataclass(frozen=True)
class Together:
    """Samples of one shape that the same branches read."""

    bucket: int
    branches: tuple[int, ...]
    samples: tuple[Sample, ...]


class HeldOut:
    """Reads what is measured, some samples at a time, always the same ones together.

    Raises:
        LiDiTError: none of the pictures can be decoded.
    """

    def __init__(self, recipe: Recipe, ready: Prepared, fetcher: Fetcher) -> None:
        assert ready.held_out is not None  # as the recipe holds pictures out
        self.recipe, self.fetcher, self.stage = recipe, fetcher, ready.held_out
        self.spec: InputSpec = ready.spec
        self.times = even_times(self.spec.prediction, recipe.validation.times)
        self.branches = tuple(sorted(ready.readers))
        self.batches = self._together()

    def __len__(self) -> int:
        return len(self.batches)

    def read(self, number: int) -> Fetched:
        """What a batch consists of, as far as it can be read from disk."""
        batch = self.batches[number]
        size = self.stage.sizes[batch.bucket]
        images = torch.stack([self._whole(s.source, s.index, size) for s in batch.samples])
        texts = [self._caption(s.source, s.index) for s in batch.samples]
        cached = self.fetcher.latents is not None
        plan = StepBatch(0, 0, batch.branches, batch.bucket, (), {})
        return Fetched(
            plan=plan,
            pictures=None if cached else images,
            latents=images if cached else None,
            texts=texts,
            states=self.fetcher.states(texts, batch.branches) if self.fetcher.cached else None,
            zeroed=torch.zeros(len(texts), dtype=torch.bool),
            time=self.times[[s.time for s in batch.samples]],
            noise=torch.stack([self._noise(s, size) for s in batch.samples]),
            content=None,
            counted=self.fetcher.counted([(s.source, s.index) for s in batch.samples], size),
            following=None,
            kept=None,
            features=None,
            replaced=(),
        )

    def _together(self) -> tuple[Together, ...]:
        """Every sample in its batch; pictures that cannot be decoded are told and left out."""
        found: dict[tuple[int, tuple[int, ...]], list[Sample]] = {}
        broken: list[str] = []
        for source, buckets in enumerate(self.stage.members):
            branches = self._read_by(source)
            for bucket, members in enumerate(buckets):
                for index in members.tolist():
                    if self._image(source, index, self.stage.sizes[bucket]) is None:
                        broken.append(self.fetcher.sources[source].name(index))
                        continue
                    times = range(len(self.times))
                    several = [Sample(source, index, time) for time in times]
                    found.setdefault((bucket, branches), []).extend(several)
        if broken:
            told = "%d pictures that are held out cannot be decoded and are not measured: %s"
            log.warning(told, len(broken), listed(broken, 3))
        if not found:
            raise LiDiTError(
                f"none of the {len(broken)} pictures that are held out can be decoded; bring whole "
                "files, or leave validation.held_out out"
            )
        return tuple(
            Together(bucket, branches, tuple(samples[first : first + ROWS]))
            for (bucket, branches), samples in sorted(found.items())
            for first in range(0, len(samples), ROWS)
        )

    def _read_by(self, source: int) -> tuple[int, ...]:
        """The branches that read a source's captions: the last stage's heaviest subset, or all."""
        own = self.recipe.data.sources[source].branches
        subsets = self.recipe.stages[-1].subsets or (Subset(own or self.branches),)
        able = [s for s in subsets if not own or set(own) & set(s.branches)]
        best = max(able, key=lambda s: s.weight, default=Subset(own or self.branches))
        return tuple(sorted(best.branches))

    def _image(self, source: int, index: int, size: tuple[int, int]) -> torch.Tensor | None:
        return self.fetcher.read_image(source, index, size)

    def _whole(self, source: int, index: int, size: tuple[int, int]) -> torch.Tensor:
        image = self._image(source, index, size)
        if image is None:
            raise LiDiTError(
                f"{self.fetcher.sources[source].name(index)} could be decoded when the run began "
                "and cannot be now; bring the file back, and start again"
            )
        return image

    def _caption(self, source: int, index: int) -> str:
        """The caption that is read most often, of equals the first."""
        return max(self.fetcher.sources[source].captions(index), key=lambda c: c[1])[0]

    def _noise(self, sample: Sample, size: tuple[int, int]) -> torch.Tensor:
        """The noise of a picture at a time, by the picture's name."""
        name = self.fetcher.sources[sample.source].name(sample.index)
        g = seeded(self.recipe.validation.seed, name_number(name), sample.time, 2)
        return torch.randn(self.spec.latent_shape(size), generator=g)

    def identity(self) -> str:
        """The hash of what is measured, 16 letters; losses of another hash do not compare."""
        of = hashlib.sha256(f"{self.recipe.validation.seed} {self.times.tolist()}".encode())
        if self.fetcher.weighs:  # else as it was before there were masks
            sources = self.recipe.data.sources
            of.update(str([(s.mask, s.outside, s.loss_weight) for s in sources]).encode())
        for batch in self.batches:
            of.update(f"{self.stage.sizes[batch.bucket]} {batch.branches}".encode())
            for sample in batch.samples:
                name = self.fetcher.sources[sample.source].name(sample.index)
                of.update(f" {name_number(name)} {sample.time}".encode())
        return of.hexdigest()[:16]

    def told(self) -> str:
        """How many pictures are measured, for the log."""
        count = sum(len(batch.samples) for batch in self.batches) // len(self.times)
        return f"{count} pictures are held out and measured at {len(self.times)} times each"
