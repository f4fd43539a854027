"""What of a step is read from disk: a process's rows, by workers that read ahead.

What is not cached (pictures' latents, texts' states) is left to the process that trains, which
alone holds the LLMs and the autoencoder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from torch import Tensor

from lidit_core.errors import LiDiTError
from lidit_core.text.states import LLMStates

from ..recipe import Recipe
from .caption_states import CaptionStates
from .latent_cache import on_latents, read_mask, read_picture
from .prepare import Prepared
from .sample_draws import SampleDraws, draw_sample, kept_tokens
from .schedule import StepBatch, StepPicture

Pinned = TypeVar("Pinned", bound="Fetched | Following")


@dataclass(frozen=True, eq=False)
class Following:
    """What contrast needs of the rows that follow a process's rows, each in the whole batch."""

    image: Tensor  # of the row after the last: (3, H, W) uint8, or latents (C, h, w) if cached
    noise: Tensor  # (C, h, w) of that row
    apart: Tensor  # (B,) bool, see lidit_train.contrast


@dataclass(frozen=True, eq=False)
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
    replaced: tuple[tuple[int, int], ...]  # (source, index) that cannot be decoded: not told yet

    def pin_memory(self) -> Fetched:
        """The same in memory that a GPU reads by itself, which torch's DataLoader asks for."""
        made, following = _pinned(self), self.following
        if self.states is not None:
            states = {
                i: replace(c, states=_pinned_states(c.states)) for i, c in self.states.items()
            }
            made = replace(made, states=states)
        return made if following is None else replace(made, following=_pinned(following))


class Fetcher(torch.utils.data.Dataset):
    """Reads the rows ``share`` of a step's plan; it is what a worker process holds."""

    def __init__(self, recipe: Recipe, ready: Prepared, share: Callable[[int], slice]) -> None:
        self.recipe, self.spec, self.share = recipe, ready.spec, share
        self.sources, self.stages = ready.sources, ready.stages
        self.readers, self.latents = ready.readers, ready.latents
        self.weighs = any(s.mask or s.loss_weight != 1 for s in recipe.data.sources)
        self.features, self.known = ready.features, ready.broken
        self.cached = self.spec.keeps_states(recipe.cache) or bool(recipe.cache.given)

    def __getitem__(self, plan: StepBatch) -> Fetched:
        numbers = range(len(plan.rows))[self.share(len(plan.rows))]
        size = self.stages[plan.stage].sizes[plan.bucket]
        read = [self._read(plan, plan.rows[n], size) for n in numbers]
        rows, images, replaced = zip(*read)
        drawn = [self._draws(plan, n, size) for n in numbers]
        texts = [self._text(row, draws) for row, draws in zip(rows, drawn)]
        said = ["" if draws.zeroed else text for text, draws in zip(texts, drawn)]
        images, cached = torch.stack(images), self.latents is not None
        return Fetched(
            plan,
            None if cached else images,
            images if cached else None,
            texts,
            self.states(texts, plan.branches) if self.cached else None,
            torch.tensor([draws.zeroed for draws in drawn]),
            torch.stack([draws.time for draws in drawn]),
            torch.stack([draws.noise for draws in drawn]),
            self._content(rows, size) if self.recipe.content else None,
            self.counted([(row.source, row.index) for row in rows], size),
            self._following(plan, numbers, rows, said, size) if self.recipe.contrast else None,
            self._kept(plan, numbers, size) if self.recipe.routing else None,
            self._features(plan, rows, size),
            tuple(bad for several in replaced for bad in several if bad not in self.known),
        )

    def _read(self, plan: StepBatch, row: StepPicture, size):
        """The row, or the first after it that can be decoded; its picture; those that cannot."""
        bad = []
        for _ in range(len(self.stages[plan.stage].members[row.source][row.bucket])):
            image = self.read_image(row.source, row.index, size)
            if image is not None:
                return row, image, bad
            bad.append((row.source, row.index))
            row = self.stages[plan.stage].following(row)
        raise LiDiTError(
            f"none of the {len(bad)} pictures of {size[0]}x{size[1]} pixels in source "
            f"{self.recipe.data.sources[row.source].path} can be decoded; bring whole files"
        )

    def read_image(self, source: int, index: int, size: tuple[int, int]) -> Tensor | None:
        """A picture (3, H, W) uint8, or its latents (C, h, w); None if it cannot be decoded."""
        if self.latents is not None:
            return self.latents.read(source, index, size)
        opened = self.sources[source]
        if opened.masked and read_mask(opened, index, size) is None:
            return None
        return read_picture(opened, index, size)

    def _draws(self, plan: StepBatch, row: int, size: tuple[int, int]) -> SampleDraws:
        stage, shape = self.recipe.stages[plan.stage], self.spec.latent_shape(size)
        shift, data = stage.shift or self.spec.own_shift(*size), self.recipe.data
        drawn = self.spec.prediction, shift, shape, stage.focus
        return draw_sample(self.recipe.seed, plan.step, row, data, *drawn)

    def _text(self, row: StepPicture, draws: SampleDraws) -> str:
        return draws.choose(self.sources[row.source].captions(row.index))

    def states(self, texts: list[str], branches: tuple[int, ...]) -> dict[int, CaptionStates]:
        """What each branch's LLM makes of the texts: from the cache, or run by this process."""
        characters = self.spec.characters
        return {branch: self.readers[branch].read_counted(texts, characters) for branch in branches}

    def _content(self, rows: Sequence[StepPicture], size: tuple[int, int]) -> Tensor:
        grain = self.spec.grain
        maps = [
            self.sources[row.source].content(row.index, size[1] // grain, size[0] // grain)
            for row in rows
        ]
        if any(one is None for one in maps):
            raise LiDiTError(
                "the recipe teaches content, but a source does not say what each patch shows; "
                "leave content out of the recipe, or the source"
            )
        return torch.stack([torch.from_numpy(one) for one in maps])

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
        """The image tokens of each row that go through every block."""
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
        row, image, _ = self._read(plan, plan.rows[after], size)
        apart = [self._apart(text, other) for text, other in zip(read, [*rows[1:], row])]
        return Following(image, self._draws(plan, after, size).noise, torch.tensor(apart))

    def _apart(self, text: str, other: StepPicture) -> bool:
        """Whether the text is a caption, and none of the other row's."""
        others = self.sources[other.source].captions(other.index)
        return text not in ("", *(caption for caption, _ in others))


def _pinned(record: Pinned) -> Pinned:
    """The same record, with each of its own tensors in pinned memory."""
    found = {field.name: getattr(record, field.name) for field in fields(record)}
    return replace(record, **{k: v.pin_memory() for k, v in found.items() if isinstance(v, Tensor)})


def _pinned_states(states: LLMStates) -> LLMStates:
    return LLMStates(states.hidden.pin_memory(), states.roles.pin_memory(), states.rows)
