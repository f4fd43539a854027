"""Memory of one training process, part by part, before anything is made.

Some parts are held all the time; activations come with each micro batch, and other parts in
moments when no activations are there. The peak is what is held and the largest of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lidit_core.model.config import LiDiTConfig

from ....data.latent_cache import BATCH
from ....data.room import STORED_BYTES
from ....loop.validating.grid import BATCH as DRAWN
from ....plan.workload import FLOAT32, SampleTokens, StageLoad, branches_read, image_tokens
from ....recipe import Optimiser
from ..lora_kinds import KINDS
from ..trained import Weights, linear_layers, weight_sizes
from .activations import Activations, saved_activations
from .process import Process

HELD, MICRO_BATCH, UPDATE, VALIDATION = "always", "micro batch", "update", "validation"
READING, ENCODING, SEEING = (
    "captions",
    "latents",
    "features",
)  # while caches are filled, before the model is made
CPU_ALLOCATOR = {  # measured: freed memory that glibc keeps, of the activations, by what is
    # trained, or the kind of LoRA; live memory is within 2 % of the rest (benchmarks)
    **{"all": 0.17, "refiners": 0.33},
    **{"lora": 0.63, "dora": 0.53, "loha": 0.42, "oft": 0.63},
}
CPU_CHECKPOINTING = 0.30  # the same where blocks are computed twice, of what they would have kept
GPU_ALLOCATOR = 0.10  # assumed: the same of torch's caching allocator
CUDA_CONTEXT = 1_000_000_000  # assumed: bytes of the driver's and libraries' own
MUON_COPIES = 6  # of the largest matrix while its step is made orthogonal
MAP_BYTES = 5 * FLOAT32  # of a number in a map beside the model: gradient, moments, average
DRAWING = 12  # tensors like the image tokens that a forward pass without gradients holds


@dataclass(frozen=True)
class MemoryPart:
    name: str
    bytes: int
    when: str = HELD


@dataclass(frozen=True)
class Memory:
    """The memory of the process that needs most; all of them need about the same."""

    parts: tuple[MemoryPart, ...]

    def at(self, when: str) -> int:
        return sum(part.bytes for part in self.parts if part.when == when)

    @property
    def busiest(self) -> str:
        """The moment of the training's peak."""
        return max((MICRO_BATCH, UPDATE, VALIDATION), key=self.at)

    @property
    def filling(self) -> str:
        """The moment at which filling the caches needs most."""
        return max((READING, ENCODING, SEEING), key=self.at)

    @property
    def moment(self) -> str:
        """The moment of the peak: in training, or while caches are filled."""
        return self.filling if self.at(self.filling) > self.training else self.busiest

    @property
    def training(self) -> int:
        """The peak once the caches are filled."""
        return self.at(HELD) + self.at(self.busiest)

    @property
    def peak(self) -> int:
        return max(self.training, self.at(self.filling))


def memory_of(process: Process) -> Memory:
    """Every part that is not empty."""
    parts = (
        *_state(process),
        *_frozen_models(process),
        *_micro_batch(process),
        *_moments(process),
        *_filling(process),
    )
    return Memory(tuple(part for part in parts if part.bytes))


def optimiser_bytes(optimiser: Optimiser, weights: Weights) -> int:
    """AdamW and schedule-free keep two numbers of each; Muon one of a matrix's; Prodigy four.

    With 8-bit state a number has two bytes, and 256 of them share two scales.
    """
    if optimiser.name == "adamw8bit":
        return 2 * (weights.trained + FLOAT32 * weights.trained // 256)
    if optimiser.name == "prodigy":
        return FLOAT32 * 4 * weights.trained
    muon = weights.matrices if optimiser.name == "muon" else 0
    return FLOAT32 * (2 * (weights.trained - muon) + muon)


def checkpoint_bytes(optimiser: Optimiser, weights: Weights) -> int:
    """The bytes of a state on disk: the weights that learn, their average, the optimiser's."""
    return FLOAT32 * 2 * weights.trained + optimiser_bytes(optimiser, weights)


def _state(process: Process) -> list[MemoryPart]:
    weights, each = process.weights, process.shards
    eight = process.eight
    half = weights.frozen if process.holds_half and not eight else 0
    whole = weights.total + weights.lora - (weights.frozen if eight else half)
    buckets = process.recipe.hardware.count > 1 and not process.recipe.compute.shard
    context = 0 if process.device.is_cpu else CUDA_CONTEXT
    several = any(load.micro_batches > 1 for load in process.loads)
    when = HELD if several else UPDATE  # each step begins without any
    return [
        MemoryPart("weights, float32", FLOAT32 * whole // each),
        MemoryPart("frozen weights, bf16", 2 * half // each),
        MemoryPart(f"frozen weights, {process.recipe.compute.frozen}", eight),
        MemoryPart("gradients, float32", FLOAT32 * weights.stepped // each, when),
        MemoryPart("gradients' buckets, float32", FLOAT32 * weights.trained * buckets),
        MemoryPart(
            f"optimiser ({process.recipe.optimiser.name})",
            optimiser_bytes(process.recipe.optimiser, weights) // each,
        ),
        MemoryPart("average of the weights", FLOAT32 * weights.trained // each),
        MemoryPart(
            "the aligned map, and what steps it", MAP_BYTES * process.aligned_weights // each
        ),
        MemoryPart("the GPU's libraries, assumed", context),
    ]


def _frozen_models(process: Process) -> list[MemoryPart]:
    """The LLMs and the autoencoder, where their outputs are not cached."""
    parts = []
    if not process.keeps_states:
        each = FLOAT32 if process.device.is_cpu else 2
        for i in sorted(branches_read(process.loads)):
            llm = process.llms[i]
            parts.append(MemoryPart(f"LLM {llm.name}, by {llm.source}", each * llm.parameters))
    if not process.recipe.cache.latents:
        vae = process.autoencoder
        parts.append(MemoryPart("autoencoder", vae.weights))
        most = max(vae.pictures(load.side, load.share) for load in process.loads)
        parts.append(MemoryPart("pictures being encoded", most))
        parts += _vision(process, lambda load: load.share, HELD)
    return parts


def _filling(process: Process) -> list[MemoryPart]:
    """What is there while caches are filled, before the model is made: one LLM, or the VAE."""
    parts = []
    if process.keeps_states and not process.recipe.cache.given:
        each = FLOAT32 if process.device.is_cpu else 2
        llms = [process.llms[i] for i in sorted(branches_read(process.loads))]
        largest = max(llms, key=lambda llm: llm.parameters)
        name = f"LLM {largest.name}, reading captions"
        parts.append(MemoryPart(name, each * largest.parameters, READING))
    if process.recipe.cache.latents:
        vae = process.autoencoder
        parts.append(MemoryPart("autoencoder, filling the cache", vae.weights, ENCODING))
        most = max(vae.pictures(load.side, BATCH) for load in process.loads)
        parts.append(MemoryPart("pictures being encoded for it", most, ENCODING))
        parts += _vision(process, lambda load: BATCH, SEEING)
    return parts


def _vision(process: Process, at_once: Callable[[StageLoad], int], when: str) -> list[MemoryPart]:
    """The encoder that a model is aligned with, and the pictures that it is given at once."""
    found = [(process.vision(load.side), load) for load in process.loads]
    sizes = [(size, size.pictures(load.side, at_once(load))) for size, load in found if size]
    if not sizes:
        return []
    most = max(pictures for _, pictures in sizes)
    return [
        MemoryPart("vision encoder", sizes[0][0].weights, when),
        MemoryPart("pictures that it sees at once", most, when),
    ]


def _micro_batch(process: Process) -> list[MemoryPart]:
    """The memory of a micro batch, of the stage and the branches that need most."""
    return max(
        (_of_load(process, load, sizes) for load in process.loads for _, sizes in load.subsets),
        key=lambda parts: sum(part.bytes for part in parts),
    )


def _of_load(process: Process, load: StageLoad, sizes: SampleTokens) -> list[MemoryPart]:
    saved = _activations(process, load, sizes, process.recipe.compute.checkpointing)
    return [
        MemoryPart("text states of a micro batch", _states(process, load, sizes), MICRO_BATCH),
        MemoryPart("activations of the refiners", saved.text, MICRO_BATCH),
        MemoryPart("activations of the blocks", saved.blocks, MICRO_BATCH),
        MemoryPart("activations of the rest", saved.rest, MICRO_BATCH),
        MemoryPart("freed, kept by the allocator", _kept(process, load, sizes), MICRO_BATCH),
        MemoryPart("a layer's change, while it is made", _change(process), MICRO_BATCH),
        MemoryPart("weights in bfloat16", _copies(process), MICRO_BATCH),
        MemoryPart("gathered from the shards", _gathered(process), MICRO_BATCH),
    ]


def _activations(
    process: Process, load: StageLoad, sizes: SampleTokens, again: bool
) -> Activations:
    content = process.recipe.content
    return saved_activations(
        process.config,
        sizes,
        load.micro,
        process.trained,
        process.mixed,
        checkpointing=again,
        classes=content.classes if content else 0,
        contrast=process.recipe.contrast is not None,
        routing=process.recipe.routing,
        beside=process.beside(sizes.tokens),
    )


def _kept(process: Process, load: StageLoad, sizes: SampleTokens) -> int:
    """Bytes of freed memory that the process still holds, in holes that nothing fits into."""
    if not process.device.is_cpu:
        again = process.recipe.compute.checkpointing
        return round(GPU_ALLOCATOR * _activations(process, load, sizes, again).total)
    lora = process.trained.lora
    share = CPU_ALLOCATOR[lora.kind if lora else process.recipe.trains]
    if process.recipe.compute.checkpointing:
        share = max(share, CPU_CHECKPOINTING)
    return round(share * _activations(process, load, sizes, again=False).total)


def _states(process: Process, load: StageLoad, sizes: SampleTokens) -> int:
    """Bytes of the states as they are stored, or without a cache as the LLM makes them."""
    each = FLOAT32 if process.device.is_cpu else 2
    if process.keeps_states:
        each = STORED_BYTES[process.recipe.cache.dtype]
    widths = {i: process.config.llms[i].state_width for i in sizes.text}
    return each * load.micro * sum(text.read * widths[i] for i, text in sizes.text.items())


def _copies(process: Process) -> int:
    """Autocast keeps its bfloat16 copies for the backward pass; shards are gathered as such."""
    weights = process.weights
    copied = weights.total - (weights.frozen if process.holds_half else 0)
    return 2 * copied if process.mixed and process.shards == 1 else 0


def _change(process: Process) -> int:
    """Matrices as large as the largest layer's, which some kinds of LoRA make and do not keep."""
    trained = process.trained
    layers = linear_layers(process.config).items()
    sizes = [inputs * outputs for name, (inputs, outputs) in layers if trained.adapted(name)]
    matrices = KINDS[trained.lora.kind].matrices if trained.lora else 0
    return FLOAT32 * matrices * max(sizes, default=0)


def _gathered(process: Process) -> int:
    """Two blocks and what is in no block, and the gradients of a block before they are shared."""
    if process.shards == 1:
        return 0
    block, rest = block_and_rest(process.config)
    gradients = FLOAT32 * block * (process.weights.trained > process.weights.lora)
    return process.compute_bytes * (2 * block + rest) + gradients


def block_and_rest(config: LiDiTConfig) -> tuple[int, int]:
    """Numbers in a block of the DiT, and in all that is outside of them."""
    size = weight_sizes(config)
    inside = sum(n for name, n in size.items() if name.startswith("blocks."))
    return inside // config.depth, sum(size.values()) - inside


def _moments(process: Process) -> list[MemoryPart]:
    validation = process.recipe.validation
    return [
        MemoryPart("Muon's largest matrix", _muon(process), UPDATE),
        *(_drawing(process) if validation.every or validation.at_start else ()),
    ]


def _muon(process: Process) -> int:
    if process.recipe.optimiser.name != "muon" or not process.weights.matrices:
        return 0
    return MUON_COPIES * FLOAT32 * process.weights.largest


def _drawing(process: Process) -> list[MemoryPart]:
    """The memory of drawing, guided rows beside plain ones; averages are in the weights' places."""
    config, sizes = process.config, process.recipe.validation.sizes(process.config.native_size)
    if not sizes:
        return []
    decoding = drawing = 0
    for (width, height), count in sizes.items():
        prompts, side = min(count, DRAWN), round((width * height) ** 0.5)
        tokens = image_tokens(config.patch * config.latent.downsampling, width, height)
        decoding = max(decoding, process.autoencoder.pictures(side, prompts, decoded=True))
        passed = DRAWING * 2 * prompts * tokens * config.width * process.compute_bytes
        drawing = max(drawing, passed)
    return [
        MemoryPart("drawing the prompts", drawing, VALIDATION),
        MemoryPart("decoding them", decoding, VALIDATION),
    ]
