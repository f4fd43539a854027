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
from .vision_size import vision_size
from .workload import StageLoad


@dataclass(frozen=True)
class Count:
    """What one source holds; None = not known before it is read."""

    pictures: int | None = None
    captions: int | None = None  # different ones


@dataclass(frozen=True)
class Cached:
    """One kind of thing that is computed once and kept."""

    name: str
    count: int | None  # as far as known; None = of no source before it is read
    each: int  # bytes
    branch: int | None = None  # whose LLM makes it; None = the autoencoder does
    side: int = 0  # of the pictures, pixels
    flops: int = 0  # of one; of LLMs and the autoencoder they are counted elsewhere
    beside: bool = False  # in the files of what is named before it
    more: bool = False  # there are sources of which it is not known before they are read

    @property
    def bytes(self) -> int | None:
        return None if self.count is None else self.count * self.each

    @property
    def files(self) -> int:
        """A caption's states are a file of their own; latents lie together in pieces."""
        if self.beside:
            return 0
        return -(-(self.count or 0) // (PIECE if self.branch is None else 1))


def counts_of(data: Data, known: Sequence[Count] | None = None) -> tuple[Count, ...]:
    """The count of each source, if known; drawn sources say themselves how many there are."""
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
    masks = _masks(data, spec, loads, counts) if kept.latents else ()
    return *states, *latents, *masks, *seen


def _states(data: Data, kept: Cache, spec: InputSpec, text, counts: Sequence[Count]):
    """Every caption by each LLM that reads its source, and the empty prompt."""
    for i, tokens in text.items():
        sources = [n for n, s in enumerate(data.sources) if i in (s.branches or (i,))]
        captions, more = _sum([counts[n].captions for n in sources])
        each = caption_bytes(spec, i, tokens, kept.dtype)
        name = f"states of captions from {spec.llms[i].name}"
        yield Cached(name, None if captions is None else captions + 1, each, i, more=more)


def _latents(data: Data, kept: Cache, spec: InputSpec, loads, counts: Sequence[Count]):
    """Every picture at each size that a stage trains it at."""
    for side, sources in _shown(data, loads):
        pictures, more = _sum([counts[n].pictures for n in sources])
        numbers = spec.latent.channels * (side // spec.latent.downsampling) ** 2
        each = numbers * STORED_BYTES[kept.dtype]
        yield Cached(f"latents of pictures at {side} px", pictures, each, side=side, more=more)


def _masks(data: Data, spec: InputSpec, loads, counts: Sequence[Count]):
    """A byte for each latent pixel of pictures that have masks, in the files of the latents."""
    for side, sources in _shown(data, loads):
        masked = [n for n in sources if data.sources[n].mask]
        if masked:
            pictures, more = _sum([counts[n].pictures for n in masked])
            each = (side // spec.latent.downsampling) ** 2
            name = f"masks of pictures at {side} px"
            yield Cached(name, pictures, each, beside=True, more=more)


def _shown(data: Data, loads: Sequence[StageLoad]) -> list[tuple[int, list[int]]]:
    """Every side that pictures are trained at, pixels, and the sources that are."""
    everywhere = range(len(data.sources))
    used = {(load.side, n) for load in loads for n in load.stage.sources or everywhere}
    sides = sorted({side for side, _ in used})
    return [(side, sorted(n for s, n in used if s == side)) for side in sides]


def _features(alignment: Alignment, kept: Cache, spec: InputSpec, latents: Sequence[Cached]):
    """What alignment's encoder sees, kept beside latents."""
    folder = at_home(alignment.encoder)
    width = VisionEncoder(folder, spec.grain).width
    for cached in latents:
        numbers = width * (cached.side // spec.grain) ** 2
        each = numbers * STORED_BYTES[kept.dtype]
        flops = vision_size(folder, spec.grain, cached.side).forward
        name = f"features of pictures at {cached.side} px"
        yield Cached(name, cached.count, each, flops=flops, more=cached.more)


def _sum(counts: Sequence[int | None]) -> tuple[int | None, bool]:
    """What is known together, None where nothing is, and whether more will be found."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None, len(known) < len(counts)
