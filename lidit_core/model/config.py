"""What a checkpoint is: frozen dataclasses, checked across fields, and the presets.

A configuration is stored as JSON in the metadata of a safetensors file, so a checkpoint
describes itself. "Paper" and "ours" are told apart as in the specification: sizes are the
paper's (arXiv 2406.11831, Table 7), the rest is ours unless a comment says otherwise.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from ..errors import LiDiTError, check, shown
from ..io.records import read_json
from ..text.spec import LLMSpec
from .shift import ShiftAt, check_shifts, interpolated_shift

FORMAT = 1  # of the JSON; raised when an old reader would misread a new file
PREDICTIONS = ("flow", "eps", "v")
FUSIONS = ("refiner", "concatenation")
MIXES = ("mean", "linear", "routed")
GATES = ("time", "none")


def _check_positive(record: object, what: str, *names: str) -> None:
    for name in names:
        value = getattr(record, name)
        check(value > 0, f"{what} has {name}={value}; expected more than 0")


@dataclass(frozen=True)
class RefinerConfig:
    """The text side inside the diffusion model, with the paper's ablations as switches."""

    blocks: int = 2  # N of the linguistic token refiner (paper: 2; Table 5). 0 = only the maps
    full_attention: bool = True  # False = causal mask (paper: Table 3)
    gated: bool = True  # False = every gate is 1 (paper: Table 5)
    entry_norm: bool = True  # RMSNorm on the LLM's states
    qk_norm: bool = True  # RMSNorm on query and key
    fusion: str = "refiner"  # or "concatenation" (paper: Table 6)
    collaborative_blocks: int = 1  # N of the collaborative refiner (paper: 1)
    mix: str = "mean"  # of an LLM's taps, where it has several; see lidit_core.model.taps
    registers: int = 0  # vectors that stand before each LLM's tokens in both refiners
    registers_kept: bool = True  # whether they are keys of the model's cross-attention too
    gates: str = "time"  # what c is made of beside the pooled text; "none" = of that alone

    def __post_init__(self) -> None:
        for name in ("blocks", "collaborative_blocks", "registers"):
            value = getattr(self, name)
            check(value >= 0, f"refiner has {name}={value}; expected 0 or more")
        check(
            self.fusion in FUSIONS,
            f"refiner has fusion={shown(self.fusion)}; expected one of {', '.join(FUSIONS)}",
        )
        for name, known in (("mix", MIXES), ("gates", GATES)):
            value = getattr(self, name)
            check(
                value in known,
                f"refiner has {name}={shown(value)}; expected one of {', '.join(known)}",
            )


@dataclass(frozen=True)
class LatentFormat:
    """The latent space painted in; the model sees (latent - mean) / std, channel by channel."""

    name: str  # of the autoencoder
    channels: int = 16
    downsampling: int = 8  # picture pixels per latent pixel, each side
    mean: tuple[float, ...] = (0.0,)  # one number, or one per channel
    std: tuple[float, ...] = (1.0,)
    rgb_factors: tuple[
        tuple[float, ...], ...
    ] = ()  # previews: the model's channels x RGB in [-1, 1]
    rgb_bias: tuple[float, ...] = ()  # RGB; both empty = no preview

    def __post_init__(self) -> None:
        _check_positive(self, f"latent format {shown(self.name)}", "channels", "downsampling")
        check(
            min(self.std, default=0) > 0,
            f"latent format {shown(self.name)} has std {self.std}; expected more than 0",
        )
        for name in ("mean", "std"):
            n = len(getattr(self, name))
            check(
                n in (1, self.channels),
                f"latent format {shown(self.name)} has {n} numbers in {name}; "
                f"expected 1 or {self.channels}, one per channel",
            )
        shape = (len(self.rgb_factors), *{len(row) for row in self.rgb_factors}, len(self.rgb_bias))
        check(
            shape in ((0, 0), (self.channels, 3, 3)),
            f"latent format {shown(self.name)} has preview factors of shape {shape[:-1]} and a "
            f"bias of {shape[-1]}; expected {self.channels} x 3 and 3, or none",
        )


@dataclass(frozen=True)
class LiDiTConfig:
    """A whole LI-DiT."""

    depth: int  # transformer blocks
    width: int  # D
    heads: int  # of every attention; width / heads is a head's width
    llms: tuple[LLMSpec, ...]  # one branch each, in the order of the state dict
    latent: LatentFormat
    patch: int = 2  # latent pixels per token, each side (paper)
    refiner: RefinerConfig = RefinerConfig()
    prediction: str = "flow"  # what the model was trained to predict; "eps" in the paper
    shift: float = 1.0  # of flow timesteps; 1 = none, larger = more steps at high noise
    native_size: int = 256  # side of the training pictures, pixels
    steps: int = 25  # sampling steps it was made for
    guidance: float = 4.0  # classifier-free guidance it was made for; 1 = none
    shifts: tuple[ShiftAt, ...] = ()  # at two sizes, in the place of shift
    position_dilation: int = (
        0  # of a second position ResBlock, in tokens; 0 = the paper's one alone
    )

    def __post_init__(self) -> None:
        sizes = ("depth", "width", "heads", "patch", "shift", "native_size", "steps", "guidance")
        _check_positive(self, "the model", *sizes)
        check(
            self.width % self.heads == 0,
            f"width {self.width} is no multiple of heads {self.heads}; choose heads that divide it",
        )
        check(len(self.llms) > 0, "a LI-DiT with 0 LLMs was asked for; expected 1 or more")
        taps = [llm.name for llm in self.llms if llm.taps > 1]
        check(
            self.refiner.entry_norm or not taps,
            f"{', '.join(taps)} is read at several blocks by a refiner without entry_norm, and "
            "their states differ in size; set refiner.entry_norm to true, or read one block",
        )
        names = [llm.name for llm in self.llms]
        check(len(set(names)) == len(names), f"LLM names {names} repeat; name each branch once")
        check(
            self.prediction in PREDICTIONS,
            f"prediction is {shown(self.prediction)}; expected one of {', '.join(PREDICTIONS)}",
        )
        check_shifts(self.shifts, self.prediction)
        check(
            self.position_dilation >= 0,
            f"position_dilation is {self.position_dilation}; expected a number of tokens, or 0 for "
            "no second position ResBlock",
        )
        grain = self.patch * self.latent.downsampling
        check(
            self.native_size % grain == 0,
            f"native_size {self.native_size} is no multiple of {grain} (patch x downsampling)",
        )

    def branch(self, llm: str) -> int:
        """The branch trained on the LLM of this name."""
        names = [spec.name for spec in self.llms]
        if llm not in names:
            raise LiDiTError(
                f"this LI-DiT has no refiner for the LLM {shown(llm)}; it was trained on "
                f"{', '.join(names)}: load one of those, or a refiner file made for {shown(llm)}"
            )
        return names.index(llm)

    def shift_at(self, width: int, height: int) -> float:
        """The shift of flow's times for a picture of this width and height in pixels."""
        return interpolated_shift(self.shifts, width, height) if self.shifts else self.shift

    def to_json(self) -> str:
        data = {"format": FORMAT, **asdict(self)}
        for later in ("shifts", "position_dilation"):
            if not data[later]:  # a file without it is read by versions that know it not
                del data[later]
        return json.dumps(data, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "LiDiTConfig":
        return read_json(cls, text, "configuration", "the checkpoint's configuration", FORMAT)
