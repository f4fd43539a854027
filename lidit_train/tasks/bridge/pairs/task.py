"""The training of a bridge from captioned pictures: from a recipe to its learner, file and plan."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import cast

from accelerate import Accelerator
from torch import Tensor

from lidit_core.bridge.file import LoadedBridge, load_bridge, write_bridge
from lidit_core.bridge.recorded import RecordedPrompts
from lidit_core.errors import check
from lidit_core.paths import at_home

from ....data.fetching import Fetcher
from ....data.prepare import Prepared, some_captions
from ....data.sources.open import captions_in, open_sources
from ....input_spec import InputSpec
from ....learner import Learner
from ....loop.parallel import share_of
from ....recipe import Recipe, Through
from ...adapter.target import unet_target
from ...pictures import PictureTask
from ...unused_fields import refuse
from ...whitening import SAMPLE
from ..assumed import assume_pairs
from ..input import bridge_config, check_begun, check_recorded, resumed_config
from ..saving import finished, stages_of
from ..start import not_begun
from ..unet.input import check_read
from ..unet.learner import opened
from .batches import PairsLoader, WrittenTexts
from .learner import PairsLearner
from .own_text import FOLDER, OwnCaptions
from .plan import make_pairs_plan
from .plan_text import pairs_plan_text
from .start import begin_adding

TRAJECTORY = "which is of the trajectories on which it learns from a recording"
EMPTY = "and the empty prompt's conditioning stays what was recorded"
UNUSED = {
    "model.measure_latents": "and the base was trained on the latents that its family has",
    "bridge.held_out": "and pictures are held out by validation.held_out",
    "data.caption_dropout": EMPTY,
    "data.text_zeroing": EMPTY,
}


def make_pairs_task(recipe: Recipe) -> PairsTask:
    """The task of a recipe that trains a bridge from pictures; what it shares is checked already.

    Raises:
        LiDiTError: the recipe has fields that this training does not use, or that do not fit.
    """
    options = recipe.bridge
    assert options is not None
    through = options.through
    check(
        through is not None and bool(options.checkpoint or options.add),
        f"the recipe trains 'bridge', its source {recipe.data.sources[0].path} is of kind "
        f"{recipe.data.sources[0].kind}, and it has no "
        f"{'bridge.through' if through is None else 'bridge.checkpoint'}; expected one of kind "
        "recording, or with pictures both: a U-Net, and a bridge that learnt from a recording, or "
        "bridge.add, the recording of the checkpoint's own encoder to which a new one adds",
    )
    refuse(recipe, UNUSED)
    plain = Through(base=through.base, prediction=through.prediction) if through else None
    for name in ("steps", "points", "guidance", "blocks"):
        check(
            getattr(through, name) == getattr(plain, name),
            f"the recipe trains 'bridge' from pictures and has bridge.through.{name}, {TRAJECTORY};"
            " leave it out",
        )
    for source in recipe.data.sources:
        check(
            not source.branches,
            f"source {source.path} names branches {list(source.branches)}, and a bridge's LLMs "
            "read every caption; leave them out",
        )
    check(
        not any(stage.subsets for stage in recipe.stages),
        "a stage has subsets of branches, and a bridge's LLMs read every caption; leave them out",
    )
    return PairsTask(recipe)


class PairsTask(PictureTask):
    """Trains a bridge through a frozen U-Net; see `lidit_train.tasks.task.Task`."""

    def __init__(self, recipe: Recipe) -> None:
        assert recipe.bridge is not None and recipe.bridge.through is not None
        self.options, self.through = recipe.bridge, recipe.bridge.through
        whole = replace(recipe.data, caption_dropout=0.0, text_zeroing=0.0)
        self.recipe = replace(recipe, data=whole)
        self.unet = unet_target(self.through.base, self.through.prediction)
        self.checkpoint = self.unet.base if self.unet.base.exists() else None
        self.own: OwnCaptions | None = None  # what is added to, once captions are known

    @cached_property
    def recorded(self) -> RecordedPrompts | None:
        """The recording of the encoder that is added to; None = the bridge stands in its place."""
        return RecordedPrompts.open(self.options.add) if self.options.add else None

    @cached_property
    def begun(self) -> LoadedBridge:
        """The bridge that is gone on from; of a new one all but its weights."""
        if self.options.checkpoint:
            return load_bridge(at_home(self.options.checkpoint))
        assert self.recorded is not None  # `make_pairs_task` has seen to it
        spec = self.recorded.written.spec
        config = bridge_config(self.options, self.recipe.cache.dtype, spec)
        return not_begun(config, self.recorded.written.rows, self.recorded.empty)

    @cached_property
    def spec(self) -> InputSpec:
        """Pictures as the U-Net reads them, captions as the bridge's LLMs do."""
        llms = self.begun.bridge.config.llms
        return InputSpec(
            latent=self.unet.latent,
            native_size=self.unet.native_size,
            patch=self.unet.patch,
            llms=llms,
            widths=tuple(llm.state_width for llm in llms),
            prediction=self.unet.asked or "eps",  # noise is drawn alike for eps and v
            characters=True,
        )

    @cached_property
    def llms(self) -> Mapping[str, str]:
        """The sources of the LLMs, by the names that they give themselves."""
        names = [llm.name for llm in self.spec.llms]
        return dict(zip(names, self.options.llms or names))

    def check_files(self) -> None:
        if self.options.add:
            self._check_recorded()
        self._check_bridge()

    def _check_recorded(self) -> None:
        """The recording is whole, and of the encoder that the bridge adds to."""
        assert self.recorded is not None  # where there is one
        check_recorded(self.recorded)
        if self.options.checkpoint:
            resumed_config(self.options, self.recipe.cache.dtype, self.recorded)

    def _check_bridge(self) -> None:
        """The U-Net reads what the bridge writes, and the recipe names no other."""
        config = self.begun.bridge.config
        if self.options.checkpoint:
            check_begun(self.options, config)
        check_read(self.unet, config.teacher)

    def _own(self, out: Path) -> OwnCaptions | None:
        """What is known of the encoder that is added to."""
        if self.recorded is None:
            return None
        cache = at_home(self.recipe.cache.folder or out / "cache")
        return OwnCaptions.of(self.recorded, self.unet, cache, self.recipe.cache.dtype)

    def take_texts(self, out: Path, accelerator: Accelerator, texts: Sequence[str]) -> None:
        """Have the encoder that is added to read what its recording does not hold."""
        self.own = self._own(out)
        if self.own is not None:
            self.own.prepare(self.unet, texts, accelerator)

    def unused(self, out: Path, accelerator: Accelerator, llms: Mapping[str, str]) -> list[Path]:
        """Files in the caches that hold nothing it reads, of the checkpoint's own encoder too."""
        cache, own = at_home(self.recipe.cache.folder or out / "cache"), self._own(out)
        kept: set[Path] = set()
        if own is not None:
            sources = open_sources(self.recipe.data, cache / "index")
            texts = [*self.recipe.validation.texts, *captions_in(sources)]
            kept = {own.path(text) for text in own.computed(texts)}
        there = sorted((cache / FOLDER).glob("*/*.safetensors"))
        return [*super().unused(out, accelerator, llms), *(p for p in there if p not in kept)]

    @property
    def written(self) -> WrittenTexts:
        return WrittenTexts(self.begun.rows, self.own)

    def loader(self, ready: Prepared, accelerator: Accelerator) -> PairsLoader:
        fetcher = Fetcher(self.recipe, ready, share_of(accelerator))
        return PairsLoader(fetcher, ready, self.written, accelerator.device)

    def learner(self, ready: Prepared) -> PairsLearner:
        if self.options.checkpoint:
            bridge = load_bridge(at_home(self.options.checkpoint)).bridge
        else:
            assert self.recorded is not None  # to which it adds
            states = []
            if self.recipe.model.whiten:
                some = some_captions(ready, SAMPLE)
                states = [reader.read(some) for _, reader in sorted(ready.readers.items())]
            bridge = begin_adding(
                self.begun.bridge.config, self.recorded, self.options, self.recipe.seed, states
            )
        compute = self.recipe.compute
        kept = opened(self.unet), self.recipe.loss, compute.checkpointing
        return PairsLearner(bridge, self.begun.empty, *kept, self.written)

    def save(
        self,
        ready: Prepared,
        learner: Learner,
        weights: Mapping[str, Tensor],
        longest: Mapping[str, int] | None,
        path: Path,
    ) -> None:
        """The bridge; what was measured of it beside a recording tells no longer how well it does,
        and is left out.
        """
        learner, loaded = cast(PairsLearner, learner), self.begun
        kept = self.spec.keeps_states(self.recipe.cache) or bool(self.recipe.cache.given)
        dtype = self.recipe.cache.dtype if kept else "float32"
        config = replace(loaded.bridge.config, dtype=dtype)
        bridge, tensors = finished(config, learner, weights, ready.readers, longest)
        told = {"from": "pictures", "steps": self.recipe.steps, "through": self.unet.base.stem}
        told["prediction"] = learner.prediction
        before = stages_of(loaded) if self.options.checkpoint else []
        stages = json.dumps([*before, told])
        write_bridge(path, LoadedBridge(bridge, loaded.rows, loaded.empty, "", stages), tensors)

    def plan(self, folder: Path) -> str:
        assumed = assume_pairs(self.options, self.recipe.cache.dtype, self.unet.shape.family)
        if assumed.bridge is not None:
            self.begun = assumed.bridge
        if self.options.add and assumed.recording_is_there:
            self._check_recorded()
        self._check_bridge()
        made = make_pairs_plan(self.recipe, self.begun, self.spec, self.unet, folder)
        return pairs_plan_text(replace(made, assumed=assumed.told))
