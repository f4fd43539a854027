"""Batches of one process: read ahead by workers, completed where the models are.

A worker reads what lies on disk (pictures or latents, cached states); what is not cached is
computed by the process that trains, which alone holds the LLMs and the autoencoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lidit_core.diffusion.objectives import target
from lidit_core.errors import LiDiTError
from lidit_core.model.latents import normalise
from lidit_core.text.states import PADDING, LLMStates

from ..batch import Batch
from ..contrast import Contrasted
from ..recipe import Recipe
from .caption_states import CaptionStates
from .latent_cache import on_latents, read_mask, read_picture
from .prepare import Prepared
from .sample_draws import Chance, chance, kept_tokens
from .schedule import StepBatch, StepPicture
from .workers import ignore_interrupts

Item = TypeVar("Item")


@dataclass(frozen=True)
class Following:
    """What contrast needs of the rows that follow a process's rows, each in the whole batch."""

    shown: Tensor  # of the row after the last: (3, H, W) uint8, or latents (C, h, w) if cached
    noise: Tensor  # (C, h, w) of that row
    apart: Tensor  # (B,) bool, see lidit_train.contrast


@dataclass(frozen=True)
class Fetched:
    """A process's rows of one step, as far as they could be read from disk."""

    plan: StepBatch
    pictures: Tensor | None  # (B, 3, H, W) uint8 where latents are not cached
    latents: Tensor | None  # (B, C, h, w)
    texts: list[str]
    states: Mapping[int, CaptionStates] | None  # by branch, where they are cached
    zeroed: Tensor  # (B,) bool
    time: Tensor  # (B,)
    noise: Tensor  # (B, C, h, w)
    content: Tensor | None  # (B, h, w)
    counted: Tensor | None  # (B, h, w) weights in the loss, where a source has masks or a weight
    following: Following | None  # where the recipe has contrast
    kept: Tensor | None  # (B, K), where the recipe has routing
    features: Tensor | None  # (B, D, h, w), where the recipe has alignment and they are cached
    replaced: tuple[tuple[int, int], ...]  # (source, index) of what could not be decoded

    def pin_memory(self) -> Fetched:
        """The same in memory that a GPU reads by itself, which torch's DataLoader asks for."""
        states = self.states
        if states is not None:
            states = {i: replace(c, states=_pinned(c.states)) for i, c in states.items()}
        return replace(
            self,
            pictures=None if self.pictures is None else self.pictures.pin_memory(),
            latents=None if self.latents is None else self.latents.pin_memory(),
            noise=self.noise.pin_memory(),
            states=states,
        )


class Fetcher(torch.utils.data.Dataset):
    """Reads the rows ``share`` of a step's plan; it is what a worker process holds."""

    def __init__(self, recipe: Recipe, ready: Prepared, share: Callable[[int], slice]) -> None:
        self.recipe, self.spec, self.share = recipe, ready.spec, share
        self.sources, self.stages = ready.sources, ready.stages
        self.readers, self.latents = ready.readers, ready.latents
        self.weighs = any(s.mask or s.loss_weight != 1 for s in recipe.data.sources)
        self.features = ready.features
        self.cached = self.spec.keeps_states(recipe.cache) or bool(recipe.cache.given)

    def __getitem__(self, plan: StepBatch) -> Fetched:
        numbers = range(len(plan.rows))[self.share(len(plan.rows))]
        size = self.stages[plan.stage].sizes[plan.bucket]
        read = [self._read(plan, plan.rows[n], size) for n in numbers]
        rows, shown, replaced = zip(*read)
        fates = [self._chance(plan, n, size) for n in numbers]
        texts = [self._text(row, fate) for row, fate in zip(rows, fates)]
        said = ["" if fate.zeroed else text for text, fate in zip(texts, fates)]
        shown, cached = torch.stack(shown), self.latents is not None
        return Fetched(
            plan,
            None if cached else shown,
            shown if cached else None,
            texts,
            self.states(texts, plan.branches) if self.cached else None,
            torch.tensor([fate.zeroed for fate in fates]),
            torch.stack([fate.time for fate in fates]),
            torch.stack([fate.noise for fate in fates]),
            self._content(rows, size) if self.recipe.content else None,
            self.counted([(row.source, row.index) for row in rows], size),
            self._following(plan, numbers, rows, said, size) if self.recipe.contrast else None,
            self._kept(plan, numbers, size) if self.recipe.routing else None,
            self._features(plan, rows, size),
            tuple(bad for several in replaced for bad in several),
        )

    def _read(self, plan: StepBatch, row: StepPicture, size):
        """The row, or the first after it that can be decoded; its picture; those that cannot."""
        bad = []
        for _ in range(len(self.stages[plan.stage].members[row.source][row.bucket])):
            shown = self.read_shown(row.source, row.index, size)
            if shown is not None:
                return row, shown, bad
            bad.append((row.source, row.index))
            row = self.stages[plan.stage].following(row)
        raise LiDiTError(
            f"none of the {len(bad)} pictures of {size[0]}x{size[1]} pixels in source "
            f"{self.recipe.data.sources[row.source].path} can be decoded; bring whole files"
        )

    def read_shown(self, source: int, index: int, size: tuple[int, int]) -> Tensor | None:
        """A picture (3, H, W) uint8, or its latents (C, h, w); None if it cannot be decoded."""
        if self.latents is not None:
            return self.latents.read(source, index, size)
        opened = self.sources[source]
        if opened.masked and read_mask(opened, index, size) is None:
            return None
        return read_picture(opened, index, size)

    def _chance(self, plan: StepBatch, row: int, size: tuple[int, int]) -> Chance:
        stage, shape = self.recipe.stages[plan.stage], self.spec.latent_shape(size)
        shift, data = stage.shift or self.spec.own_shift(*size), self.recipe.data
        drawn = self.spec.prediction, shift, shape, stage.focus
        return chance(self.recipe.seed, plan.step, row, data, *drawn)

    def _text(self, row: StepPicture, fate: Chance) -> str:
        return fate.choose(self.sources[row.source].captions(row.index))

    def states(self, texts: list[str], branches: tuple[int, ...]) -> dict[int, CaptionStates]:
        """What each branch's LLM makes of the texts: from the cache, or run by this process."""
        return {branch: self.readers[branch].read_counted(texts) for branch in branches}

    def _content(self, rows: Sequence[StepPicture], size: tuple[int, int]) -> Tensor:
        grain = self.spec.grain
        maps = [
            self.sources[row.source].content(row.index, size[1] // grain, size[0] // grain)
            for row in rows
        ]
        if any(shown is None for shown in maps):
            raise LiDiTError(
                "the recipe teaches content, but a source does not say what each patch shows; "
                "leave content out of the recipe, or the source"
            )
        return torch.stack([torch.from_numpy(shown) for shown in maps])

    def counted(self, pictures: Sequence[tuple[int, int]], size: tuple[int, int]) -> Tensor | None:
        """How much the loss counts each latent pixel (B, h, w): the sources' masks and weights.

        Args:
            pictures: source and place there of each; they can be decoded.
        """
        if not self.weighs:
            return None
        shape = self.spec.latent_shape(size)[1:]
        weights = torch.ones(len(pictures), *shape)
        for (number, index), place in zip(pictures, weights):
            source = self.recipe.data.sources[number]
            if source.mask:
                mask = self._mask(number, index, size, shape).float() / 255
                place.copy_(source.outside + (1 - source.outside) * mask)
            place *= source.loss_weight
        return weights

    def _mask(self, source: int, index: int, size: tuple[int, int], shape: Sequence[int]) -> Tensor:
        if self.latents is not None:
            return self.latents.read_mask(source, index, size)
        mask = read_mask(self.sources[source], index, size)
        assert mask is not None  # as it was decoded when the picture was read
        return on_latents(mask[None], shape)[0]

    def aligns(self, plan: StepBatch) -> bool:
        """Whether a step aligns with a vision encoder's features; a plan without rows does not."""
        aligned = self.recipe.alignment
        return aligned is not None and bool(plan.rows) and aligned.stands(plan.step)

    def _features(self, plan: StepBatch, rows: Sequence[StepPicture], size) -> Tensor | None:
        """The rows' cached features, if this step reads any."""
        if self.features is None or not self.aligns(plan):
            return None
        read = [self.features.read(row.source, row.index, size) for row in rows]
        return torch.stack([seen for seen in read if seen is not None])

    def _kept(self, plan: StepBatch, numbers: range, size: tuple[int, int]) -> Tensor:
        """Which image tokens of each row go through every block."""
        assert self.recipe.routing is not None
        tokens = (size[0] // self.spec.grain) * (size[1] // self.spec.grain)
        drawn = tokens, self.recipe.routing.kept(tokens)
        return torch.stack([kept_tokens(self.recipe.seed, plan.step, n, *drawn) for n in numbers])

    def _following(self, plan: StepBatch, numbers: range, rows, read: list[str], size) -> Following:
        """The row after these, and which of these contrast sets against the one that follows it.

        Args:
            read: the rows' texts, "" where a row reads no token.
        """
        after = (numbers[-1] + 1) % len(plan.rows)
        row, shown, _ = self._read(plan, plan.rows[after], size)
        apart = [self._apart(text, other) for text, other in zip(read, [*rows[1:], row])]
        return Following(shown, self._chance(plan, after, size).noise, torch.tensor(apart))

    def _apart(self, text: str, other: StepPicture) -> bool:
        """Whether the text is a caption, and none of the other row's."""
        others = self.sources[other.source].captions(other.index)
        return text not in ("", *(caption for caption, _ in others))


class Loader:
    """Iterates over a process's batches from the schedule's present step on."""

    def __init__(self, fetcher: Fetcher, ready: Prepared, device="cpu") -> None:
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
            None if content is None else self._moved(content.long()),
            ["" if none else text for text, none in zip(fetched.texts, zeroed)],
            {i: [0 if none else n for n, none in zip(c.used, zeroed)] for i, c in read.items()},
            self._contrasted(fetched, fetched.following, x) if fetched.following else None,
            None if fetched.counted is None else self._moved(fetched.counted),
            None if fetched.kept is None else self._moved(fetched.kept),
            self._features(fetched),
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
        last = following.shown[None]
        if fetched.latents is None:
            last = self._latents(last)
        others = torch.cat([x[1:], normalise(last.to(self.device), spec.latent)])
        noise = torch.cat([fetched.noise[1:], following.noise[None]]).to(self.device)
        velocity = target(spec.prediction, others, noise, fetched.time.to(self.device))
        return Contrasted(velocity, following.apart.to(self.device))

    @torch.no_grad()
    def _latents(self, pictures: Tensor) -> Tensor:
        return self.vae.encode(pictures).float()


def _as_it_is(fetched: Item) -> Item:
    return fetched


def _pinned(states: LLMStates) -> LLMStates:
    return LLMStates(states.hidden.pin_memory(), states.roles.pin_memory(), states.rows)
