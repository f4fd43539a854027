"""One file says what an ablation is: its start, what every run trains on, variants and claims."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lidit_core.errors import check, shown
from lidit_core.llmdiff.config import MODES
from lidit_core.model.config import RefinerConfig
from lidit_core.text.spec import LLMSpec
from lidit_core.text.templates import find_template
from lidit_train.ranges import one_of
from lidit_train.recipe_file import read_recipe
from lidit_train.tasks.lidit.taps import with_taps

from ..score import PROMPTS
from ..text_gap import TIMES

NAME = re.compile(r"[a-z0-9][a-z0-9-]*")  # of a variant, as its folder's
STARTS = ("checkpoint", "trunk", "model", "adapter")  # what an ablation begins with: one of them
OF_MODEL = ("preset", "changes", "vae", "measure_latents", "whiten")  # that variants leave open


@dataclass(frozen=True)
class Reading:
    """One LLM and how it is read, as `LLMSpec` has it; the template may be a preset's name."""

    name: str
    width: int
    block: int | str | tuple[int, ...] = -3
    template: str = "short"
    token_budget: int = 96

    def spec(self) -> LLMSpec:
        template = find_template(self.template)
        llm = {"name": self.name, "block": self.block}
        (read,) = with_taps({"llms": [llm]})["llms"]
        return LLMSpec(self.name, self.width, read["block"], template, self.token_budget)


@dataclass(frozen=True)
class Variant:
    """A text side that is forked from the trunk or begins from nothing, or an adapter."""

    name: str
    says: str  # in the table
    reads: tuple[str, ...] = ()  # readings by name, one a branch
    adapter: dict = field(default_factory=dict)  # of an adapter: its recipe's fields that differ
    refiner: RefinerConfig = RefinerConfig()  # what is left out is as the paper has it

    def __post_init__(self) -> None:
        check(
            NAME.fullmatch(self.name) is not None,
            f"a variant is called {self.name!r}; expected small letters, digits and hyphens",
        )
        check(
            bool(self.reads) or bool(self.adapter),
            f"variant {self.name} reads nothing; expected one reading or more",
        )


@dataclass(frozen=True)
class Claim:
    """The claim that the text gap of one variant is larger than that of another."""

    says: str
    this: str  # a variant
    other: str
    table: str = ""  # of the paper; "" = ours
    paper: tuple[float, ...] = ()  # its scores of this and of the other (T2I-CompBench average)

    def __post_init__(self) -> None:
        check(
            len(self.paper) in (0, 2),
            f"the claim {self.says!r} has {len(self.paper)} scores of the paper; expected two, of "
            "this and of the other, or none",
        )


@dataclass(frozen=True)
class Gap:
    """The text gap, see `lidit_stickers.text_gap`."""

    scenes: int = 1000
    times: tuple[float, ...] = TIMES

    def __post_init__(self) -> None:
        check(self.scenes >= 2, f"gap.scenes is {self.scenes}; expected 2 or more")
        check(bool(self.times), "gap.times is empty; expected one time or more")
        for time in self.times:
            check(0 < time <= 1, f"gap.times has {time}; expected 0 < t <= 1, 1 is noise")


@dataclass(frozen=True)
class ScoreOptions:
    """Pictures judged by the forced choice of the nearest glyph."""

    prompts: str = "evaluation"
    every: int = 1  # only every Nth prompt; 0 = no pictures are drawn

    def __post_init__(self) -> None:
        check(
            self.prompts in PROMPTS,
            f"score.prompts is {self.prompts!r}; expected one of {', '.join(PROMPTS)}",
        )
        check(self.every >= 0, f"score.every is {self.every}; expected 0 or more")
        if self.every:
            count = len(PROMPTS[self.prompts]())
            check(
                self.every < count,
                f"score.every is {self.every}, and {self.prompts} has {count} prompts; expected "
                "less, so that there are two to compare, or 0 for none",
            )


@dataclass(frozen=True)
class Ablation:
    """What `lidit ablate` trains and measures."""

    fork: dict  # a recipe without its model and seed
    variants: tuple[Variant, ...]
    reference: str  # whose gap differences are told in per cent of
    readings: dict[str, Reading] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    seeds: tuple[int, ...] = (0, 1)
    checkpoint: str = ""  # the trunk: a shipped name or a file
    trunk: dict = field(default_factory=dict)  # or the recipe that trains it
    model: dict = field(default_factory=dict)  # or, from nothing: the model of all their recipes
    adapter: dict = field(default_factory=dict)  # or, of adapters, what all their recipes share
    mode: str = "replace"  # in which adapters are measured
    gap: Gap = Gap()
    score: ScoreOptions = ScoreOptions()
    also: tuple[ScoreOptions, ...] = ()  # further lists of prompts, each with a table of its own

    def __post_init__(self) -> None:
        check(
            len(starts := [name for name in STARTS if getattr(self, name)]) == 1,
            f"the ablation begins with {' and '.join(starts) or 'nothing that it names'}; expected "
            "a checkpoint, a trunk, a model of which all starts from nothing, or an adapter with "
            "its base",
        )
        self._check_start()
        one_of("the ablation's mode", self.mode, MODES)
        others = [score.prompts for score in self.also]
        check(
            len({*others}) == len(others),
            f"the ablation's also has a list of prompts twice: {others}; leave one out",
        )
        check(bool(self.seeds), "the ablation has no seeds; expected one or more")
        for what, given in (("variants", self.names), ("seeds", self.seeds)):
            check(len(set(given)) == len(given), f"the ablation's {what} repeat: {list(given)}")
        for variant in self.variants:
            check(
                bool(self.adapter) == bool(variant.adapter)
                and not (variant.adapter and variant.reads),
                f"variant {variant.name} has adapter={shown(variant.adapter)} and reads "
                f"{list(variant.reads)}; expected a change of the adapter where the ablation has "
                "one, and readings alone where it has none",
            )
            _known(f"variant {variant.name} reads", variant.reads, tuple(self.readings), "readings")
        _known("the reference is", (self.reference,), self.names, "variants")
        for claim in self.claims:
            named = (claim.this, claim.other)
            _known(f"the claim {claim.says!r} is on", named, self.names, "variants")
        for name in ("model", "seed", "adapter", "trains"):
            check(
                name not in self.fork,
                f"the ablation's fork has {name}, which the variants and the seeds decide; leave "
                "it out",
            )

    def _check_start(self) -> None:
        changes = self.model.get("changes", {})
        inside = [f"changes.{name}" for name in ("llms", "refiner") if name in changes]
        decided = [name for name in self.model if name not in OF_MODEL] + inside
        check(
            not decided,
            f"the ablation's model has {', '.join(decided)}; expected {', '.join(OF_MODEL)} "
            "alone, as every variant has a text side of its own, and all else starts from nothing",
        )
        check(
            not self.model or bool(self.model.get("preset")),
            "the ablation's model has no preset; expected one, as stickers, and what differs in "
            "its changes",
        )

        count = self.fork.get("hardware", {}).get("count", 1)
        check(
            count == 1,
            f"the ablation's fork has hardware.count={count}; expected 1, as each process trains a "
            "run of its own: start the command once for each GPU",
        )

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(variant.name for variant in self.variants)

    @property
    def images(self) -> int:
        """Pictures that every run learns on."""
        return sum(stage["images"] for stage in self.fork["stages"])

    def llms(self, variant: Variant) -> list[str]:
        """The LLMs that a variant reads, by their names."""
        if self.adapter:
            return [{**self.adapter, **variant.adapter}["llm"]]
        return [spec.name for spec in self.specs(variant)]

    def specs(self, variant: Variant) -> tuple[LLMSpec, ...]:
        """How a variant's branches read."""
        return tuple(self.readings[name].spec() for name in variant.reads)


def _known(what: str, asked: Sequence[str], known: Sequence[str], kind: str) -> None:
    for name in asked:
        check(name in known, f"{what} {name!r}; expected one of the {kind} {', '.join(known)}")


def read_ablation(path: str | Path, changes: Sequence[str] = ()) -> Ablation:
    """Read the file of an ablation.

    Args:
        changes: as `read_recipe` takes them.
    Raises:
        LiDiTError: it cannot be read or says what cannot be.
    """
    return read_recipe(path, changes, Ablation)
