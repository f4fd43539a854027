"""How large a recipe's caches become, as far as its sources say without being opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lidit_core.paths import at_home

from ..data.latent_cache import PIECE
from ..data.room import STORED_BYTES, caption_bytes
from ..data.token_guess import TextTokens
from ..data.vision.encoder import VisionEncoder
from ..input_spec import InputSpec
from ..recipe import Alignment, Cache, Data, Recipe
from .workload import StageLoad


@dataclass(frozen=True)
class Count:
    """Of one source; None = not known before it is read."""

    pictures: int | None = None
    captions: int | None = None  # different ones


@dataclass(frozen=True)
class Cached:
    """One kind of thing that is computed once and kept."""

    name: str
    count: int | None  # None = not known before the sources are read
    each: int  # bytes
    branch: int | None = None  # whose LLM makes it; None = the autoencoder does
    side: int = 0  # of the pictures, pixels

    @property
    def bytes(self) -> int | None:
        return None if self.count is None else self.count * self.each

    @property
    def files(self) -> int:
        """A caption's states are a file of their own; latents lie together in pieces."""
        return -(-(self.count or 0) // (PIECE if self.branch is None else 1))


def counts_of(data: Data, known: Sequence[Count] | None = None) -> tuple[Count, ...]:
    """One a source; those that are drawn say themselves how many there are."""
    if known:
        return tuple(known)
    return tuple(Count(s.count or None, s.distinct or None) for s in data.sources)


def caches(
    recipe: Recipe,
    spec: InputSpec,
    loads: Sequence[StageLoad],
    text: Mapping[int, TextTokens],
    counts: Sequence[Count],
) -> tuple[Cached, ...]:
    """What the recipe wants cached."""
    data, kept = recipe.data, recipe.cache
    states = _states(data, kept, spec, text, counts) if spec.keeps_states(kept) else ()
    latents = tuple(_latents(data, kept, spec, loads, counts)) if kept.latents else ()
    seen = _features(recipe.alignment, kept, spec, latents) if recipe.alignment else ()
    return *states, *latents, *seen


def _states(data: Data, kept: Cache, spec: InputSpec, text, counts: Sequence[Count]):
    """Every caption by each LLM that reads its source, and the empty prompt."""
    for i, tokens in text.items():
        sources = [n for n, s in enumerate(data.sources) if i in (s.branches or (i,))]
        captions = _sum([counts[n].captions for n in sources])
        each = caption_bytes(spec, i, tokens, kept.dtype)
        name = f"states of captions from {spec.llms[i].name}"
        yield Cached(name, None if captions is None else captions + 1, each, i)


def _latents(data: Data, kept: Cache, spec: InputSpec, loads, counts: Sequence[Count]):
    """Every picture at each size that a stage trains it at."""
    everywhere = range(len(data.sources))
    used = {(load.side, n) for load in loads for n in load.stage.sources or everywhere}
    for side in sorted({side for side, _ in used}):
        pictures = _sum([counts[n].pictures for s, n in sorted(used) if s == side])
        numbers = spec.latent.channels * (side // spec.latent.downsampling) ** 2
        each = numbers * STORED_BYTES[kept.dtype]
        yield Cached(f"latents of pictures at {side} px", pictures, each, side=side)


def _features(alignment: Alignment, kept: Cache, spec: InputSpec, latents: Sequence[Cached]):
    """What alignment's encoder sees, kept beside latents; how long it takes is not counted."""
    width = VisionEncoder(at_home(alignment.encoder), spec.grain).width
    for cached in latents:
        numbers = width * (cached.side // spec.grain) ** 2
        each = numbers * STORED_BYTES[kept.dtype]
        yield Cached(f"features of pictures at {cached.side} px", cached.count, each)


def _sum(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
