"""A training recipe: one YAML file that says everything a run needs to be repeated.

Fields that are left out have the values written here. A test shows that every one is used.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lidit_core.checkpoints.lora_styles import WRITTEN
from lidit_core.diffusion.times import Focus
from lidit_core.errors import check, shown
from lidit_core.io.records import LARGEST
from lidit_core.llmdiff.config import FORMS, LAST, MODES, TokenRefiner

from ..ranges import in_range, one_of
from .alignment import Alignment
from .bridging import BridgeOptions
from .keeping import Checkpoints, Log
from .loss import Loss
from .optimiser import UNDIVIDED, Optimiser
from .routing import Routing
from .sources import Data
from .validation import Validation

PRECISIONS = ("float32", "bf16")
EIGHT_BITS = ("int8", "fp8")
LORA_KINDS = ("lora", "dora", "loha", "oft")


@dataclass(frozen=True)
class Model:
    """The LI-DiT that is trained, and what it begins with."""

    preset: str = ""  # of lidit_core.model.presets: a new model
    checkpoint: str = ""  # or: go on from a LI-DiT, a shipped name ("stickers") or a file
    pixart: str = ""  # a PixArt-alpha or -Sigma file whose transformer a new model takes over
    changes: dict = field(default_factory=dict)  # fields of its LiDiTConfig that differ
    llms: tuple[str, ...] = ()  # the branches' LLMs by the names of the presets; () = as it has.
    # A branch of a checkpoint whose LLM is thereby another one starts afresh.
    vae: str = "shipped"  # or the base's own, a file (TAESD's layout or SD's), a diffusers folder
    measure_latents: bool = False  # take the latents' mean and deviation from the data
    whiten: bool = True  # fresh maps from LLM states start whitened (lidit_train.tasks.whitening)
    fresh_text: bool = False  # of a checkpoint: its text side starts anew, and may be another one

    def __post_init__(self) -> None:
        check(
            not (self.pixart and self.checkpoint),
            "the recipe's model has pixart and checkpoint; PixArt's transformer goes into a new "
            "model: name a preset in place of the checkpoint",
        )


@dataclass(frozen=True)
class Lora:
    """A small change of the model's matrices: low-rank (Hu et al. 2021, arXiv 2106.09685) or akin.

    The kinds are lora, dora (Liu et al. 2024, arXiv 2402.09353), loha (Hyeon-Woo et al. 2021, arXiv
    2108.06098) and oft (Qiu et al. 2023, arXiv 2306.07280).
    """

    rank: int = 16  # of the two matrices whose product changes a layer; oft: rows of a block, or
    # the largest number below that divides a layer's
    alpha: float = 16.0  # the change is alpha / rank times the product of its two matrices; oft: a
    # bound on the norm of what turns a layer, 0 = none
    layers: tuple[str, ...] = ("blocks", "text_side")  # parts of LI-DiT whose linear layers change
    names: str = ""  # in the file, as "kohya" (sd-scripts) or "peft" have them; "" = the plain ones
    kind: str = "lora"  # "dora" changes directions and lengths apart, "loha" multiplies two
    # low-rank changes number by number, "oft" rotates outputs

    def __post_init__(self) -> None:
        in_range(self, "lora", "rank", low=1)
        one_of("the recipe's lora.names", self.names, tuple(WRITTEN))
        one_of("the recipe's lora.kind", self.kind, LORA_KINDS)
        check(
            self.names != "peft" or self.kind in ("lora", "dora"),
            f"the recipe's lora has names=peft and kind={self.kind}, for which peft has no names "
            "that ComfyUI's loader reads; set names=kohya, or leave it out",
        )
        check(bool(self.layers), "the recipe's lora has no layers; expected parts of LI-DiT")


@dataclass(frozen=True)
class Adapter:
    """An LLMDiff adapter (lidit_core.llmdiff) for a U-Net that stays as it is."""

    base: str = ""  # the checkpoint: a .safetensors in ComfyUI's or diffusers' layout, or a folder
    prediction: str = ""  # of the checkpoint, "eps" or "v"; "" = as the file says
    llm: str = ""  # a name, a model folder (of an encoder too, as BERT or T5) or a .gguf
    template: str = "none"  # a preset, a file, or text with {prompt} in it
    token_budget: int = 77  # tokens of a caption that the LLM reads
    modes: tuple[str, ...] = MODES  # trained, each on its share of every batch
    form: str = "direct"  # of the Langevin dynamics, or "consecutive"; "last" = the last state
    noise: bool = True  # Langevin noise in training, whose size is learnt
    refiner: TokenRefiner | None = None  # LI-DiT's, in front of the adapter
    timestep_gates: bool = False  # gates of the adapter that depend on the timestep
    text_encoders: str = ""  # mode add: a checkpoint or a diffusers folder; "" = the base
    start: str = ""  # an adapter's file to begin with, of this LLM and form; "" = afresh

    def __post_init__(self) -> None:
        check(
            bool(self.base) and bool(self.llm),
            f"the recipe's adapter has base={shown(self.base)} and llm={shown(self.llm)}; expected "
            "both",
        )
        one_of("the adapter's prediction", self.prediction, ("", "eps", "v"))
        one_of("the adapter's form", self.form, FORMS)
        check(
            self.noise or self.form != LAST,
            "the recipe's adapter has form=last and noise=false, and that form has no noise to "
            "leave out; leave out one of them",
        )
        in_range(self, "adapter", "token_budget", low=1)
        for mode in self.modes:
            one_of("a mode of the adapter", mode, MODES)
        check(bool(self.modes), "the recipe's adapter has no modes; expected replace, add or both")


@dataclass(frozen=True)
class Cache:
    """What is computed once; then neither the LLMs nor the autoencoder are loaded."""

    states: bool | None = None  # of captions, from the LLMs; None = unless an adapter is trained
    latents: bool = True  # of pictures, from the autoencoder
    dtype: str = "bf16"  # in which both are kept
    folder: str = ""  # "" = "cache" in the run's folder; runs may share one
    given: str = ""  # a folder of states computed elsewhere: the LLMs are not looked for

    def __post_init__(self) -> None:
        one_of("the cache's dtype", self.dtype, PRECISIONS)


@dataclass(frozen=True)
class Subset:
    """Branches that take part together in a step, and how often."""

    branches: tuple[int, ...]  # of the model, by number
    weight: float = 1.0  # relative to the stage's other subsets

    def __post_init__(self) -> None:
        check(
            bool(self.branches) and self.weight > 0,
            f"a subset has branches {shown(self.branches)} and weight {self.weight}; expected a "
            "branch or more, and a weight above 0",
        )


@dataclass(frozen=True)
class Stage:
    """Some of the training at one picture size; the paper goes from small to large as well."""

    images: int  # to train on
    batch: int  # images a step, over all processes
    resolution: int = 0  # side of the square of the same area, pixels; 0 = the model's native size
    shift: float = 0.0  # of training times towards noise; 0 = the model's own
    focus: Focus | None = None  # a range from which some of the times are drawn instead
    rate: float = 1.0  # factor on the learning rate
    sources: tuple[int, ...] = ()  # places in the data's list; () = all
    subsets: tuple[Subset, ...] = ()  # () = all branches together

    def __post_init__(self) -> None:
        in_range(self, "stage", "images", "batch", low=1)
        in_range(self, "stage", "resolution", "shift", "rate", low=0)

    @property
    def steps(self) -> int:
        return -(-self.images // self.batch)


@dataclass(frozen=True)
class Content:
    """A second loss: a linear map of one block's image tokens must name what each patch shows.

    As representation alignment (Yu et al. 2024, arXiv 2410.06940) with labels that drawn scenes
    have for nothing; the map is not part of the model.
    """

    weight: float = 0.1  # of the cross-entropy beside the objective's loss
    block: int = 3  # the transformer block whose output is read
    classes: int = 65  # that a patch may show


@dataclass(frozen=True)
class Place:
    """A loss that keeps image tokens aware of where they are, which is what relations need.

    A linear map of one block's tokens must tell each token's row and column; the map is not part of
    the model. At high noise tokens far from the border know nothing of it by themselves, and
    nothing in the objective asks for it before the text is read, nor the reverse.
    """

    weight: float = 0.2  # of the mean squared error beside the objective's loss
    block: int = 3  # the transformer block whose output is read

    def __post_init__(self) -> None:
        in_range(self, "place", "weight", low=0)


@dataclass(frozen=True)
class Contrast:
    """Contrastive flow matching (Stoica et al. 2025, arXiv 2506.05350); for models of flow alone.

    Every prediction is also pushed away from the velocity of another sample of its batch: the mean
    squared error between the two is subtracted. Samples that read no caption, or one that the other
    sample may read too, have no such term.
    """

    weight: float = 0.05  # in (0, 1), of what is subtracted beside the objective's loss

    def __post_init__(self) -> None:
        check(
            0 < self.weight < 1,
            f"the recipe's contrast has weight={self.weight}; expected above 0 and below 1",
        )


@dataclass(frozen=True)
class Compute:
    """How a step is computed; none of it changes what is learnt beyond rounding."""

    precision: str = "bf16"  # mixed precision on a GPU (paper); a CPU without cpu_bf16: float32
    cpu_bf16: bool = False  # a CPU with instructions for it computes in bf16 too
    micro_batch: int = 0  # images taken at once, captions of like length; 0 = all of a process
    checkpointing: bool = False  # compute the blocks' activations again in the backward pass
    compile: bool = False  # torch.compile of the transformer's blocks
    cuda_graph: bool = False  # replay a step as one CUDA graph, for small models on one GPU
    frozen: str = ""  # what does not learn; int8, fp8: matrices with scales; "" = as computed
    shard: bool = False  # weights, gradients and optimiser over all processes (fully_shard)

    def __post_init__(self) -> None:
        one_of("the recipe's precision", self.precision, PRECISIONS)
        one_of("the recipe's compute.frozen", self.frozen, ("", *PRECISIONS, *EIGHT_BITS))
        check(
            not (self.shard and self.frozen in ("bf16", *EIGHT_BITS)),
            f"the recipe's compute has shard and frozen={self.frozen}; a divided model has one "
            "precision, so leave one of them out",
        )
        check(
            not (self.cpu_bf16 and self.precision == "float32"),
            "the recipe's compute has cpu_bf16 with precision=float32; expected precision=bf16, or "
            "leave cpu_bf16 out",
        )
        in_range(self, "compute", "micro_batch", low=0)


@dataclass(frozen=True)
class Hardware:
    """What `--print-plan` reckons with; the run itself takes what it finds."""

    device: str = "this CPU"  # a name of lidit_train.plan.hardware
    count: int = 1  # of devices

    def __post_init__(self) -> None:
        in_range(self, "hardware", "count", low=1)


@dataclass(frozen=True)
class Recipe:
    """How a LI-DiT, an adapter for a U-Net or a bridge was or is to be trained."""

    data: Data  # captioned pictures, and how they are read
    stages: tuple[Stage, ...]  # of the training, one after the other
    model: Model = Model()
    trains: str = "all"  # "refiners" freezes the DiT, "lora" all but a LoRA, "adapter" the U-Net;
    # "bridge" learns from a recording
    lora: Lora = Lora()
    adapter: Adapter | None = None
    bridge: BridgeOptions | None = None  # of LLMs that learn to write what a recording holds
    optimiser: Optimiser = Optimiser()
    loss: Loss = Loss()
    content: Content | None = None  # teach a block what each patch shows
    alignment: Alignment | None = None  # teach a block what a vision encoder sees
    place: Place | None = None  # image tokens must tell where they are
    contrast: Contrast | None = None  # tell a caption's velocity from that of others
    routing: Routing | None = None  # lead some image tokens around some blocks
    compute: Compute = Compute()
    cache: Cache = Cache()
    checkpoints: Checkpoints = Checkpoints()
    validation: Validation = Validation()
    log: Log = Log()
    hardware: Hardware = Hardware()
    seed: int = 0  # of first weights, order, noise and all other chance

    def __post_init__(self) -> None:
        check(bool(self.stages), "the recipe has no stages; expected one or more")
        recorded = any(source.kind == "recording" for source in self.data.sources)
        through = self.bridge is not None and self.bridge.through is not None
        self.validation.check_measured(self.steps, measures=through and recorded)
        check(
            not (self.compute.shard and self.optimiser.name in UNDIVIDED),
            f"the recipe has compute.shard and the optimiser {self.optimiser.name}, which steps "
            "whole weights alone; leave out compute.shard, or name adamw or muon",
        )
        for stage in self.stages:
            rate = stage.rate * self.optimiser.learning_rate
            check(
                rate <= LARGEST,
                f"a stage's rate times optimiser.learning_rate is {rate:g}; expected "
                f"{LARGEST:g} at most, so lower one of them",
            )
            for i in stage.sources:
                check(
                    0 <= i < len(self.data.sources),
                    f"a stage takes source {i}; expected 0 to {len(self.data.sources) - 1}",
                )

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)
