"""What a plan assumes of a recording and of a bridge that are not there yet.

A run itself refuses what is missing. Sizes of SD1.5's and SDXL's encoders are known, where the
recording's folder is named after one of these or the bridge learns through its U-Net. The prompts
are those that `lidit prompts` writes, measured over its 20,000 of seed 0 with ComfyUI's tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from lidit_core.bridge.config import BridgeConfig, TeacherSpec
from lidit_core.bridge.file import LoadedBridge, load_bridge
from lidit_core.bridge.layout import RowMaker, TokenLayout
from lidit_core.bridge.recorded import MOST
from lidit_core.bridge.rows import TeacherRows
from lidit_core.paths import at_home

from ...recipe import BridgeOptions, Recipe
from .input import bridge_config
from .start import not_begun

LLM = "SmolLM2-135M-Instruct"
PROMPTS = 20_000
LONG = 11  # one prompt in so many has two chunks of CLIP's rows, the others one: 84 in the mean
WORDS = 29, 82  # of a prompt of one chunk, and of two: 135 letters in the mean
CHUNKS = TokenLayout(start=(49406,), end=(49407,), window=77, pad=49407)  # as ComfyUI has CLIP's
ENCODERS = {
    "sd15": TeacherSpec("SD1ClipModel", 768, 49408, CHUNKS, pooled=768, weights=True),
    "sdxl": TeacherSpec(
        "SDXLClipModel", 2048, 49408, CHUNKS, pooled=1280, taps=(768, 1280), weights=True
    ),
}


@dataclass(frozen=True)
class AssumedPrompts:
    """A recording of the collection, as a plan counts it; it holds nothing."""

    spec: TeacherSpec

    @staticmethod
    def of(family: str) -> AssumedPrompts:
        """A recording of the encoders of a family's checkpoints."""
        return AssumedPrompts(ENCODERS[family])

    @cached_property
    def texts(self) -> list[str]:
        return ["cat " * WORDS[n % LONG == 0] for n in range(PROMPTS)]

    @cached_property
    def maker(self) -> RowMaker:
        from tokenizers import Tokenizer, models, pre_tokenizers

        core = Tokenizer(models.WordLevel({"cat": 0}, unk_token="cat"))
        core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return RowMaker(self.spec.layout, core)

    def rows(self, number: int) -> TeacherRows:
        return self.maker(self.texts[number])

    def split(self, share: float, seed: int) -> tuple[Sequence[int], Sequence[int]]:
        """The numbers of prompts that are learnt from, and of those that are held out."""
        count = min(MOST, max(1, round(share * PROMPTS)))
        return range(count, PROMPTS), range(count)

    @property
    def size(self) -> int:
        """Bytes of the recording."""
        rows = sum(len(self.rows(n).ids) for n in range(LONG)) / LONG
        return round(2 * PROMPTS * (rows * self.spec.width + self.spec.pooled))


@dataclass(frozen=True)
class Assumed:
    """What stands in the place of what is not there yet; None = it is there."""

    prompts: AssumedPrompts | None
    config: BridgeConfig | None
    told: tuple[str, ...]  # a line on each


def assume(recipe: Recipe, family: str, recorded: Callable[[], TeacherSpec]) -> Assumed:
    """Look for the recording and the bridge of a recipe.

    Args:
        family: of the U-Net that the bridge learns through; "" = the recording's folder tells.
        recorded: what the recording says of its encoder.
    """
    options, path, dtype = recipe.bridge, recipe.data.sources[0].path, recipe.cache.dtype
    assert options is not None  # `make_task` has seen to it
    prompts, told = None, []
    spec = ENCODERS.get(family or Path(path).name)
    if spec is not None and not options.add and not at_home(path).exists():
        prompts = AssumedPrompts(spec)
        made = f"{PROMPTS:,} prompts, as `lidit prompts` writes them, by {spec.name}"
        told.append(f"  {path} is not there yet; assumed are {made}")
    if prompts is None and not _is_missing(options):
        return Assumed(None, None, ())
    spec = recorded() if prompts is None else prompts.spec
    if _is_missing(options):
        config = _default_config(options, dtype, spec)
        told.append(told_of_bridge(options, config))
    elif options.checkpoint:
        config = replace(load_bridge(at_home(options.checkpoint)).bridge.config, dtype=dtype)
    else:
        config = bridge_config(options, dtype, spec)
    return Assumed(prompts, config, tuple(told))


@dataclass(frozen=True)
class AssumedPairs:
    """What stands in the place of what a run on pictures begins with, and is not there yet."""

    bridge: LoadedBridge | None  # without weights; None = it is there, or a new one's recording
    recording_is_there: bool  # of the encoder that is added to
    told: tuple[str, ...]  # a line on each


def assume_pairs(options: BridgeOptions, dtype: str, family: str) -> AssumedPairs:
    """Look for the bridge and the recording of a recipe that trains from pictures.

    Where it is not known what the bridge will write nothing is assumed.

    Args:
        family: of the U-Net that it is for.
    """
    spec, there = ENCODERS.get(family), not options.add or at_home(options.add).exists()
    if spec is None or (there and not _is_missing(options)):
        return AssumedPairs(None, True, ())
    told = []
    if not there:
        told.append(f"  {options.add} is not there yet; assumed is a recording of {spec.name}")
    if options.checkpoint and not _is_missing(options):
        return AssumedPairs(None, there, tuple(told))
    config = _default_config(options, dtype, spec)
    if options.checkpoint:
        told.append(told_of_bridge(options, config))
    made = not_begun(config, AssumedPrompts(spec).maker, (torch.empty(0), {}))
    return AssumedPairs(made, there, tuple(told))


def told_of_bridge(options: BridgeOptions, config: BridgeConfig) -> str:
    """A line on a bridge that is not there yet."""
    read = ", ".join(llm.name for llm in config.llms)
    return f"  {options.checkpoint} is not there yet; assumed is one by {read}, of default sizes"


def _is_missing(options: BridgeOptions) -> bool:
    return bool(options.checkpoint) and not at_home(options.checkpoint).exists()


def _default_config(options: BridgeOptions, dtype: str, spec: TeacherSpec) -> BridgeConfig:
    """The bridge that a recipe will go on from: of the sizes that recipes have by default."""
    llms = options.llms or (LLM,)
    return bridge_config(replace(options, checkpoint="", llms=llms), dtype, spec)
