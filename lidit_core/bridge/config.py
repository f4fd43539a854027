"""What a bridge is: stored as JSON in the metadata of its file, which thereby describes itself."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from ..dtypes import DEFAULT, DTYPES
from ..errors import check, shown
from ..io.records import read_json
from ..text.spec import LLMSpec
from .layout import TokenLayout

FORMAT = 1  # of the JSON; raised when an old reader would misread a new file
SEEDS = 128  # numbers of the teacher's table that a query begins with
RESIDUALS = ("attention", "mlp", "none")
SEEDED = ("pca", "trained", "none")


@dataclass(frozen=True)
class TeacherSpec:
    """The text encoder whose conditioning a bridge writes."""

    name: str
    width: int  # numbers in a row
    vocabulary: int  # ids of its table of tokens
    layout: TokenLayout = field(default_factory=TokenLayout)
    pooled: int = 0  # numbers in its pooled vector; 0 = it has none
    taps: tuple[int, ...] = ()  # widths of the parts that a row of `layout` is joined of, zeros
    # with which it is filled up left out; () = one part
    masked: bool = False  # its conditioning has an attention_mask, so that padding is not read
    more: tuple[TokenLayout, ...] = ()  # of encoders whose rows follow in the same sequence
    weights: bool = False  # it reads weights of words, as in (word:1.3)
    llm: LLMSpec | None = None  # how a LI-DiT reads it, where that was recorded; None = not known
    tokenizers: tuple[str, ...] = ()  # names of the text models whose they are, as the host's
    # tokens have them, one a layout; () = not known, as in older recordings
    more_taps: tuple[tuple[int, ...], ...] = ()  # as `taps`, of each layout in `more`
    pooled_taps: tuple[int, ...] = ()  # as `taps`, of the pooled vector

    def __post_init__(self) -> None:
        for name in ("width", "vocabulary"):
            value = getattr(self, name)
            check(value > 0, f"the bridge's teacher has {name}={value}; expected 1 or more")
        check(self.pooled >= 0, f"the teacher has pooled={self.pooled}; expected 0 (none) or more")
        for taps, width in [
            *((taps, self.width) for taps in (self.taps, *self.more_taps)),
            (self.pooled_taps, self.pooled),
        ]:
            check(
                not taps or (min(taps) > 0 and sum(taps) <= width),
                f"the bridge's teacher has taps={list(taps)} in {width} numbers; expected widths "
                "whose sum is no more",
            )
        for name, of, count in (
            ("tokenizers", self.tokenizers, len(self.layouts)),
            ("more_taps", self.more_taps, len(self.more)),
        ):
            check(
                len(of) in (0, count),
                f"the bridge's teacher has {name}={shown(of)} and {len(self.layouts)} layouts; "
                f"expected {count} or none",
            )

    @property
    def known_as(self) -> tuple[str, ...]:
        """The names by which its makers' terms are found."""
        return (self.name, *self.tokenizers)

    def parts(self, layout: int) -> tuple[int, ...]:
        """The widths of the parts of a layout's rows, of which the last may be zeros."""
        known = dict(enumerate((self.taps, *self.more_taps)))
        return _whole(known.get(layout, ()), self.width)

    @property
    def pooled_parts(self) -> tuple[int, ...]:
        """The widths of the parts of the pooled vector, of which the last may be zeros."""
        return _whole(self.pooled_taps, self.pooled)

    @property
    def layouts(self) -> tuple[TokenLayout, ...]:
        """The layouts of all encoders in order."""
        return (self.layout, *self.more)

    @property
    def constants(self) -> int:
        """The number of kinds of rows that are no text, over all encoders."""
        return sum(layout.constants for layout in self.layouts)


def _whole(taps: tuple[int, ...], width: int) -> tuple[int, ...]:
    """The widths of all parts, that of the rest last."""
    rest = width - sum(taps)
    return (*taps, rest) if rest else taps


@dataclass(frozen=True)
class BridgeConfig:
    """The LLMs that a bridge reads, the rows that it writes, and the sizes of its layers."""

    llms: tuple[LLMSpec, ...]
    teacher: TeacherSpec
    dtype: str = DEFAULT  # of `DTYPES`: that of the LLMs' states that it was trained on
    width: int = 512  # of the refined tokens and the queries
    heads: int = 8
    refiner_blocks: int = 2  # of the linguistic refiner of each LLM
    collaborative_blocks: int = 1  # where there are several LLMs, or an encoder is added to
    blocks: int = 3  # of the resampler
    residual: str = "attention"  # what is added to the base: or "mlp", token by token, or "none"
    base: bool = True  # ridge; False = the residual alone, for comparison
    overlap: bool = True  # queries attend more to tokens that share their characters
    seeds: str = "pca"  # what a query knows of its token: or "trained", a table, or "none"
    add: bool = False  # to what the checkpoint's own encoder wrote; False = in its place

    def __post_init__(self) -> None:
        check(bool(self.llms), "the bridge has no LLM; expected one or more")
        for name in ("width", "heads"):
            value = getattr(self, name)
            check(value > 0, f"the bridge has {name}={value}; expected 1 or more")
        for name in ("refiner_blocks", "collaborative_blocks", "blocks"):
            value = getattr(self, name)
            check(value >= 0, f"the bridge has {name}={value}; expected 0 or more")
        check(
            self.width % (2 * self.heads) == 0,
            f"the bridge has width={self.width} and heads={self.heads}; expected a width that "
            "twice the heads divide",
        )
        for name, known in (("dtype", DTYPES), ("residual", RESIDUALS), ("seeds", SEEDED)):
            value = getattr(self, name)
            check(
                value in known,
                f"the bridge has {name}={shown(value)}; expected one of {', '.join(known)}",
            )
        check(
            self.base or self.residual != "none",
            "the bridge has neither base nor residual; expected one of them",
        )
        check(
            not self.add or (self.base and self.residual == "attention"),
            f"the bridge adds to an encoder and has residual={shown(self.residual)} and base="
            f"{self.base}; expected residual attention, and base as it is: what the encoder wrote "
            "is the base",
        )

    @property
    def state_width(self) -> int:
        """Numbers in the states of all LLMs together."""
        return sum(llm.state_width for llm in self.llms)

    @property
    def state_parts(self) -> tuple[int, ...]:
        """The widths of each LLM's states, and of each layer of one that has several."""
        return tuple(llm.width for llm in self.llms for _ in range(llm.taps))

    @property
    def branches(self) -> int:
        """The collaborative refiner's branches: each LLM, and the encoder that is added to."""
        return len(self.llms) + self.add

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, ensure_ascii=False)

    @staticmethod
    def from_json(text: str) -> BridgeConfig:
        """Read the metadata of a file; every field is checked."""
        return read_json(BridgeConfig, text, "the bridge", "the bridge's configuration", FORMAT)
