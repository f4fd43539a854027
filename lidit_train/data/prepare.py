"""What a run reads, made ready before any model is built: sources, buckets, caches."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from lidit_core.dtypes import torch_dtype
from lidit_core.errors import LiDiTError, check, listed
from lidit_core.io.atomic import replacing
from lidit_core.io.records import read_record
from lidit_core.model.config import LatentFormat, LiDiTConfig
from lidit_core.model.vae import DOWNSAMPLING
from lidit_core.paths import at_home

from ..input_spec import InputSpec
from ..memory import InParts, give_back
from ..recipe import Cache, Recipe, Stage, Validation
from .autoencoders.find import Autoencoder, AutoencoderFile, as_pixels, find_autoencoder
from .buckets import bucket_sizes, nearest_bucket
from .budget import tell_cut
from .caption_states import CaptionReader, open_readers
from .latent_cache import LatentCache, at_once, read_picture
from .latent_statistics import measured_format
from .room import check_room
from .schedule import Schedule, StageBuckets, held_out
from .sources import PictureSource
from .sources.open import captions_in, open_sources, unused_indices
from .vision.encoder import VisionEncoder

log = logging.getLogger(__name__)

MEASURED = 2048  # pictures that the latents' statistics are taken from
UNCACHED = 256  # of them, where each must be encoded for that
FULL = (
    "lower the stage's resolution, end what else uses this memory, or keep the run off the GPU "
    "with --device cpu"
)
LATENTS = "latents.json"  # in the run's folder: the format with what was measured
CONFIG = "config.json"  # where runs of before keep it, in a LI-DiT's whole configuration


@dataclass(frozen=True, eq=False)
class Prepared:
    """Everything that batches are made of."""

    spec: InputSpec  # with measured latents where the recipe wants that
    sources: tuple[PictureSource, ...]
    stages: tuple[StageBuckets, ...]
    readers: Mapping[int, CaptionReader]  # by branch
    vae: Opened
    latents: LatentCache | None
    schedule: Schedule
    held_out: StageBuckets | None = None  # pictures that are measured and not trained on
    vision: VisionEncoder | None = None  # where the recipe has alignment
    features: LatentCache | None = None  # of it, beside cached latents
    broken: frozenset[tuple[int, int]] = frozenset()  # source and place of what the cache lacks

    @property
    def fingerprints(self) -> dict[int, str]:
        """The fingerprints of the LLMs that read captions, by branch."""
        return {branch: reader.fingerprint for branch, reader in self.readers.items()}


@dataclass
class Opened:
    """The autoencoder, opened when it is first needed; it takes what memory has room for."""

    file: AutoencoderFile
    device: torch.device | str
    half: bool = False  # computes in bf16, where it is diffusers'

    @cached_property
    def model(self) -> Autoencoder:
        return self.file.open(self.device, self.half)

    @cached_property
    def _encoder(self) -> InParts:
        return InParts(lambda x: self.model.encode(as_pixels(x.to(self.device))), FULL)

    @cached_property
    def _decoder(self) -> InParts:
        return InParts(lambda x: self.model.decode(x.to(self.device)), FULL)

    def encode(self, pictures: Tensor) -> Tensor:
        """Encode (B, 3, H, W) uint8, moved as it is: a GPU makes floats of it much sooner."""
        return self._encoder(pictures, at_once((pictures.shape[3], pictures.shape[2])))

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] of latents (B, C, h, w) before they are normalised."""
        width, height = (DOWNSAMPLING * latents.shape[side] for side in (3, 2))
        return self._decoder(latents, at_once((width, height)))

    def let_go(self) -> None:
        """Free its memory until it is needed again."""
        for name in ("model", "_encoder", "_decoder"):
            self.__dict__.pop(name, None)
        give_back()


def prepare(
    recipe: Recipe,
    spec: InputSpec,
    out: Path,
    accelerator: Accelerator,
    llms: Mapping[str, str],
    checkpoint: Path | None = None,
    on_texts: Callable[[Sequence[str]], object] = lambda texts: None,
) -> Prepared:
    """Open the sources and fill the caches, every process its share.

    Args:
        spec: what the recipe's task reads.
        llms: where LLMs are that are not found under their names.
        checkpoint: the model that is trained on, beside which its autoencoder may lie.
        on_texts: told every text that may be met, before an LLM reads one.
    """
    cache = at_home(recipe.cache.folder or out / "cache")
    with accelerator.main_process_first():  # the others find the indices ready
        sources = open_sources(recipe.data, cache / "index")
    if recipe.content:
        _check_content(sources)
    stages, held = stage_buckets(recipe, spec, sources)
    schedule = Schedule(recipe, stages, tuple(range(len(spec.llms))))
    schedule.tell_seen()
    readers = _readers(recipe, spec, cache, accelerator, llms)
    captions = captions_in(sources)
    texts = list(dict.fromkeys(["", *recipe.validation.texts, *captions]))
    on_texts(texts)
    _read_captions(recipe.cache, spec, texts, readers, accelerator)
    shown = stages + ((held,) if held else ())
    vae, latents = _latents(recipe, spec, cache, sources, shown, accelerator, checkpoint)
    broken = _broken(recipe, sources, stages, latents)
    seen = _features(recipe, spec, cache, sources, stages, accelerator)
    if recipe.model.measure_latents:
        spec = replace(spec, latent=_measured(spec, out, sources, stages, vae, latents))
    for reader in readers.values():  # the last, as an LLM that keeps nothing is loaded for it
        tell_cut(reader, captions)
    return Prepared(spec, sources, stages, readers, vae, latents, schedule, held, *seen, broken)


def unused(
    recipe: Recipe,
    spec: InputSpec,
    out: Path,
    accelerator: Accelerator,
    llms: Mapping[str, str],
    checkpoint: Path | None = None,
) -> list[Path]:
    """Files in the recipe's caches that hold nothing it reads; the arguments are `prepare`'s."""
    cache = at_home(recipe.cache.folder or out / "cache")
    sources = open_sources(recipe.data, cache / "index")
    texts = ["", *recipe.validation.texts, *captions_in(sources)]
    readers = _readers(recipe, spec, cache, accelerator, llms).values()
    kept = {path for reader in readers for path in reader.files(texts)}
    states = [p for p in sorted((cache / "states").glob("*/*.safetensors")) if p not in kept]
    states += unused_indices(sources, cache / "index")
    file = find_autoencoder(recipe.model.vae, spec.latent, checkpoint)
    latents = LatentCache(cache / "latents", file.identity(), torch_dtype(recipe.cache.dtype))
    stages, held = stage_buckets(recipe, spec, sources)
    features = sorted((cache / "features").glob("*.*"))
    if recipe.alignment is not None:
        vision = VisionEncoder(at_home(recipe.alignment.encoder), spec.grain)
        features = feature_cache(recipe.cache, vision, cache).unused(sources, stages)
    return states + latents.unused(sources, stages + ((held,) if held else ())) + features


def _check_content(sources: Sequence[PictureSource]) -> None:
    """Every source must say what its patches show, before a caption is read for such a run."""
    if any(source.content(0, 1, 1) is None for source in sources):
        raise LiDiTError(
            "the recipe teaches content, but a source does not say what each patch shows; "
            "leave content out of the recipe, or the source"
        )


def stage_buckets(
    recipe: Recipe, spec: InputSpec, sources: Sequence[PictureSource]
) -> tuple[tuple[StageBuckets, ...], StageBuckets | None]:
    """The pictures of every stage, each in the bucket whose shape is nearest to its own.

    Those that are held out come second, at the last stage's size; None where none are.
    """
    share, found, others = recipe.validation.held_out, [], None
    held = [_held_out(source, share) for source in sources]
    for stage in recipe.stages:
        sizes = bucket_sizes(stage.resolution or spec.native_size, spec.grain, recipe.data.buckets)
        places = [nearest_bucket(source.sizes, sizes) for source in sources]
        trained = [np.where(out, -1, place) for out, place in zip(held, places)]
        found.append(_buckets(sizes, trained))
        others = _buckets(sizes, [np.where(out, place, -1) for out, place in zip(held, places)])
    check(
        not share or any(out.any() for out in held),
        "the recipe holds pictures out, and no source has more than one; bring more, or leave "
        "validation.held_out out",
    )
    return tuple(found), others if share else None


def _buckets(sizes: list[tuple[int, int]], places: list[np.ndarray]) -> StageBuckets:
    """Group each source's pictures by their place among the sizes; those at -1 are left out."""
    members = tuple(tuple((place == n).nonzero()[0] for n in range(len(sizes))) for place in places)
    return StageBuckets(tuple(sizes), members)


def _held_out(source: PictureSource, share: float) -> np.ndarray:
    if not share:
        return np.zeros(len(source.sizes), dtype=bool)
    return held_out([source.name(index) for index in range(len(source.sizes))], share)


def used_branches(asked: Sequence[Stage], validation: Validation, spec: InputSpec) -> list[int]:
    """The branches that some stage trains or reads, or the validation draws with."""
    everyone = range(len(spec.llms))
    used = {b for stage in asked for subset in stage.subsets for b in subset.branches}
    if not all(stage.subsets for stage in asked):
        used |= set(everyone)
    named = used | set(validation.branches)
    if not named <= set(everyone):
        raise LiDiTError(
            f"the recipe names branch {max(named)}, and the model has {len(spec.llms)}; expected "
            f"0 to {len(spec.llms) - 1}"
        )
    return sorted(named)


def _readers(recipe, spec: InputSpec, cache: Path, accelerator, llms) -> dict[int, CaptionReader]:
    folder = cache / "states" if spec.keeps_states(recipe.cache) else None
    used = used_branches(recipe.stages, recipe.validation, spec)
    return open_readers({i: spec.llms[i] for i in used}, folder, recipe.cache, accelerator, llms)


def _read_captions(
    kept: Cache, spec: InputSpec, texts: Sequence[str], readers, accelerator
) -> None:
    """Fill the cache of states with the texts that each branch may meet."""
    if not (spec.keeps_states(kept) or kept.given):
        return
    processes = accelerator.num_processes
    mine = texts[accelerator.process_index :: processes]
    for i, reader in readers.items():
        if not kept.given:
            check_room(spec, i, reader, mine, processes)
        reader.prepare(mine)
        reader.unload()
    accelerator.wait_for_everyone()


def _latents(
    recipe: Recipe, spec: InputSpec, cache: Path, sources, stages, accelerator, checkpoint
):
    file = find_autoencoder(recipe.model.vae, spec.latent, checkpoint)
    half = accelerator.mixed_precision == "bf16"
    vae = Opened(file, accelerator.device, half)
    if not recipe.cache.latents:
        return vae, None
    latents = LatentCache(cache / "latents", file.identity(), torch_dtype(recipe.cache.dtype))
    mine = slice(accelerator.process_index, None, accelerator.num_processes)
    latents.prepare(sources, stages, vae.encode, mine, recipe.data.workers)
    vae.let_go()
    accelerator.wait_for_everyone()
    return vae, latents


def _broken(recipe: Recipe, sources, stages, latents: LatentCache | None):
    """What could not be decoded, which is told before the first step, not when a step meets it."""
    broken = frozenset(latents.broken(stages) if latents else ())
    for number, source in enumerate(recipe.data.sources):
        if names := [sources[n].name(index) for n, index in sorted(broken) if n == number]:
            told = "%s: %d cannot be decoded, and the next is taken instead (%s)"
            log.warning(told, source.path, len(names), listed(names))
    return broken


def _features(recipe: Recipe, spec: InputSpec, cache: Path, sources, stages, accelerator):
    """The vision encoder of a recipe with alignment, and its features as latents are kept."""
    if recipe.alignment is None:
        return None, None
    folder = at_home(recipe.alignment.encoder)
    vision = VisionEncoder(folder, spec.grain, accelerator.device)
    if not recipe.cache.latents:
        return vision, None
    features = feature_cache(recipe.cache, vision, cache)
    mine = slice(accelerator.process_index, None, accelerator.num_processes)
    features.prepare(sources, stages, vision.encode, mine, recipe.data.workers)
    vision.let_go()
    accelerator.wait_for_everyone()
    return vision, features


def feature_cache(kept: Cache, vision: VisionEncoder, cache: Path) -> LatentCache:
    """The cache of an encoder's features, kept by the pictures' bytes, as latents are."""
    return LatentCache(cache / "features", vision.identity(), torch_dtype(kept.dtype))


def _measured(spec: InputSpec, out: Path, sources, stages, vae, latents) -> LatentFormat:
    """The latents' statistics, measured once a run: a resumed one has those that it began with."""
    path, former = out / LATENTS, out / CONFIG
    if path.is_file():
        return read_record(LatentFormat, json.loads(path.read_text()), str(path))
    if former.is_file():
        return LiDiTConfig.from_json(former.read_text()).latent
    made = measured_format(some_latents(sources, stages[-1], vae, latents), spec.latent)
    with replacing(path) as beside:
        beside.write_text(json.dumps(asdict(made)))
    return made


def some_captions(ready: Prepared, most: int) -> list[str]:
    """Captions that are spread evenly over the sources."""
    texts = []
    for source in ready.sources:
        count = len(source.sizes)
        texts += [source.captions(i)[0][0] for i in range(0, count, max(1, count // most))]
    return texts[:most]


@torch.no_grad()
def some_latents(
    sources: Sequence[PictureSource], stage: StageBuckets, vae: Opened, latents: LatentCache | None
) -> list[Tensor]:
    """Latents (C, h, w) of pictures that are spread evenly over a stage."""
    places = [
        (number, int(index), size)
        for number, buckets in enumerate(stage.members)
        for size, members in zip(stage.sizes, buckets)
        for index in members
    ]
    most = UNCACHED if latents is None else MEASURED
    chosen = places[:: max(1, len(places) // most)][:most]
    if latents is not None:
        return [x for x in (latents.read(*place) for place in chosen) if x is not None]
    pictures = [read_picture(sources[n], i, size) for n, i, size in chosen]
    return [vae.encode(p[None])[0].float().cpu() for p in pictures if p is not None]
