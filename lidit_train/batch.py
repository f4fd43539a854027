"""The batch that a learner trains on, and the prompts that a validation draws."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor

from lidit_core.text.states import LLMStates

from .contrast import Contrasted

Kind = TypeVar("Kind")


@dataclass(frozen=True, eq=False)
class Batch:
    """One process's share of a step."""

    x: Tensor  # (B, C, H, W) normalised latents
    noise: Tensor  # like x
    time: Tensor  # (B,) in (0, 1]
    states: Mapping[int, LLMStates]  # by branch
    content: Tensor | None = None  # (B, h, w) int64: what each patch shows
    captions: Sequence[str] = ()  # as an adapter's U-Net reads them itself
    used: Mapping[int, Sequence[int]] = field(default_factory=dict)  # tokens read of each caption
    contrasted: Contrasted | None = None  # where the recipe has contrast
    counted: Tensor | None = None  # (B, h, w): weights in the loss, by latent pixel; None = all 1
    kept: Tensor | None = None  # (B, K) int64: image tokens that go through every block (routing)
    features: Tensor | None = None  # (B, D, h, w) of a vision encoder (alignment)
    seeds: Sequence[int] = ()  # of what else is drawn for each sample, see `seeds_of`

    def __len__(self) -> int:
        return len(self.x)

    def part(self, rows: slice | list[int]) -> "Batch":
        """Some of its samples, with the padding of all."""
        return Batch(
            self.x[rows],
            self.noise[rows],
            self.time[rows],
            {i: states[rows] for i, states in self.states.items()},
            None if self.content is None else self.content[rows],
            _chosen(self.captions, rows),
            {i: _chosen(used, rows) for i, used in self.used.items()},
            None if self.contrasted is None else self.contrasted[rows],
            None if self.counted is None else self.counted[rows],
            None if self.kept is None else self.kept[rows],
            None if self.features is None else self.features[rows],
            _chosen(self.seeds, rows),
        )

    def micro_batches(self, size: int) -> Iterator["Batch"]:
        """Parts of at most so many samples; 0 = all at once.

        Captions of like length go together, each part padded to its own longest, so that short
        ones do not pay for the longest of the batch.
        """
        if not size or size >= len(self):
            yield self
            return
        texts = [[row.seen for row in states.rows.each] for states in self.states.values()]
        tokens = [sum(lengths) for lengths in zip(*texts)] or [0] * len(self)
        order = sorted(range(len(self)), key=tokens.__getitem__)
        for first in range(0, len(self), size):
            part = self.part(order[first : first + size])
            yield replace(part, states={i: s.trimmed() for i, s in part.states.items()})

    def mean(self, errors: Tensor) -> Tensor:
        """Means (B,) of errors (B, C, h, w), each error with the weight of its latent pixel."""
        if self.counted is not None:
            errors = errors * self.counted[:, None]
        return errors.mean((1, 2, 3))

    def mean_of_samples(self, errors: Tensor) -> Tensor:
        """The mean () of errors (B, ...), each with the mean weight of its sample."""
        if self.counted is not None:
            weights = self.counted.mean((1, 2))
            errors = errors * weights.view(-1, *[1] * (errors.dim() - 1))
        return errors.mean()


def seeds_of(noise: Tensor) -> list[int]:
    """Seeds by the bits of each sample's first noise (B, ...), which a resumed run finds again."""
    return (noise.flatten(1)[:, 0].float().view(torch.int32) & 0x7FFFFFFF).tolist()


def _chosen(each: Sequence[Kind], rows: slice | list[int]) -> Sequence[Kind]:
    """What some samples have; an empty sequence stays one."""
    return each[rows] if isinstance(rows, slice) else [each[row] for row in rows if each]


@dataclass(frozen=True, eq=False)
class DrawnPrompts:
    """Prompts to draw, and what each branch's LLM makes of them."""

    prompts: list[str]
    states: Mapping[int, LLMStates]  # by branch
    spans: Mapping[int, Tensor] = field(default_factory=dict)  # (B, L, 2) by branch: characters of
    # the tokens, where the task reads them
