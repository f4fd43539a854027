"""Batches of one process: what workers fetched, completed where the models are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lidit_core.diffusion.objectives import target
from lidit_core.model.latents import normalise
from lidit_core.text.states import PADDING, LLMStates

from ..batch import Batch, seeds_of
from ..contrast import Contrasted
from .fetching import Fetched, Fetcher, Following
from .prepare import Prepared
from .workers import ignore_interrupts

T = TypeVar("T")


class Loader:
    """Iterates over a process's batches from the schedule's present step on."""

    def __init__(
        self, fetcher: Fetcher, ready: Prepared, device: torch.device | str = "cpu"
    ) -> None:
        self.fetcher, self.device = fetcher, device
        self.schedule, self.vae, self.vision = ready.schedule, ready.vae, ready.vision

    @property
    def llms(self) -> list[str]:
        """The names of the LLMs, by branch."""
        return [llm.name for llm in self.fetcher.spec.llms]

    def name(self, source: int, index: int) -> str:
        """What a picture of a source is called."""
        return self.fetcher.sources[source].name(index)

    def __iter__(self) -> Iterator[tuple[Fetched, Batch]]:
        workers = self.fetcher.recipe.data.workers
        ahead = DataLoader(
            self.fetcher,
            batch_size=None,
            sampler=self.schedule,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            collate_fn=_as_it_is,
            worker_init_fn=ignore_interrupts,
            pin_memory=torch.device(self.device).type == "cuda",
        )
        for fetched in ahead:
            yield fetched, self.complete(fetched)

    def complete(self, fetched: Fetched) -> Batch:
        """What was read, with what only the models can add, on the device."""
        latents = fetched.latents
        if latents is None:
            assert fetched.pictures is not None  # it has one of both
            latents = self._latents(fetched.pictures)
        x = normalise(self._moved(latents), self.fetcher.spec.latent)
        read = fetched.states
        if read is None:
            read = self.fetcher.states(fetched.texts, fetched.plan.branches)
        text = {i: self._text(c.states, fetched.zeroed) for i, c in read.items()}
        zeroed = fetched.zeroed.tolist()
        content = fetched.content
        return Batch(
            x,
            self._moved(fetched.noise),
            self._moved(fetched.time),
            text,
            None if content is None else self._moved(content).long(),
            ["" if none else text for text, none in zip(fetched.texts, zeroed)],
            {i: [0 if none else n for n, none in zip(c.used, zeroed)] for i, c in read.items()},
            self._contrasted(fetched, fetched.following, x) if fetched.following else None,
            None if fetched.counted is None else self._moved(fetched.counted),
            None if fetched.kept is None else self._moved(fetched.kept),
            self._features(fetched),
            seeds_of(fetched.noise),
        )

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)

    def _text(self, kept: LLMStates, zeroed: Tensor) -> LLMStates:
        """The states on the device, made float32 there: half as much is moved of bf16.

        A zeroed row has no token there, which is what a zeroed-out conditioning means.
        """
        rows = kept.rows.emptied(zeroed.tolist(), kept.roles.shape[1])
        nothing = self._moved(zeroed)[:, None]
        roles = self._moved(kept.roles).masked_fill(nothing, PADDING)
        return LLMStates(self._moved(kept.hidden), roles, rows).to(dtype=torch.float32)

    def _features(self, fetched: Fetched) -> Tensor | None:
        """What the vision encoder sees in the pictures, cached or computed now."""
        if fetched.features is not None:
            return self._moved(fetched.features)
        if self.vision is None or not self.fetcher.aligns(fetched.plan):
            return None
        assert fetched.pictures is not None  # without the cache of latents
        return self.vision.encode(fetched.pictures)

    def _contrasted(self, fetched: Fetched, following: Following, x: Tensor) -> Contrasted:
        """The velocities of the rows that follow; x (B, C, h, w) are the batch's own latents."""
        spec = self.fetcher.spec
        last = following.image[None]
        if fetched.latents is None:
            last = self._latents(last)
        others = torch.cat([x[1:], normalise(last.to(self.device), spec.latent)])
        noise = torch.cat([fetched.noise[1:], following.noise[None]]).to(self.device)
        velocity = target(spec.prediction, others, noise, fetched.time.to(self.device))
        return Contrasted(velocity, following.apart.to(self.device))

    @torch.no_grad()
    def _latents(self, pictures: Tensor) -> Tensor:
        return self.vae.encode(pictures).float()


def _as_it_is(fetched: T) -> T:
    return fetched
