"""The training of a bridge from captioned pictures: from a recipe to its learner, file and plan."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import cast

from accelerate import Accelerator
from torch import Tensor

from lidit_core.bridge.file import LoadedBridge, load_bridge, write_bridge
from lidit_core.errors import check
from lidit_core.paths import at_home

from ....data.fetching import Fetcher
from ....data.prepare import Prepared
from ....input_spec import InputSpec
from ....learner import Learner
from ....loop.parallel import share_of
from ....recipe import Recipe, Through
from ...adapter.target import unet_target
from ...pictures import PictureTask
from ...unused_fields import refuse
from ..assumed import assumed_bridge, told_of_bridge
from ..input import check_llms
from ..saving import finished, stages_of
from ..unet.input import check_read
from ..unet.learner import opened
from .batches import PairsLoader
from .learner import PairsLearner
from .plan import make_pairs_plan
from .plan_text import pairs_plan_text

log = logging.getLogger(__name__)

TRAJECTORY = "which is of the trajectories on which it learns from a recording"
EMPTY = "and the empty prompt's conditioning stays what was recorded"
UNUSED = {
    "model.measure_latents": "and the base was trained on the latents that its family has",
    "bridge.add": "and a bridge that adds to an encoder does not learn from pictures yet",
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
        through is not None and bool(options.checkpoint),
        f"the recipe trains 'bridge', its source {recipe.data.sources[0].path} is of kind "
        f"{recipe.data.sources[0].kind}, and it has no "
        f"{'bridge.through' if options.checkpoint else 'bridge.checkpoint'}; expected one of kind "
        "recording, or with pictures both: a bridge that learnt from a recording, and a U-Net",
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

    @cached_property
    def begun(self) -> LoadedBridge:
        """The bridge that is gone on from."""
        return load_bridge(at_home(self.options.checkpoint))

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
        config = self.begun.bridge.config
        check_llms(self.options, config)
        check(
            not config.add,
            f"the bridge {at_home(self.options.checkpoint)} adds to an encoder, and such a one "
            "does not learn from pictures yet; go on from one that stands in the encoder's place",
        )
        check_read(self.unet, config.teacher)

    def loader(self, ready: Prepared, accelerator: Accelerator) -> PairsLoader:
        fetcher = Fetcher(self.recipe, ready, share_of(accelerator))
        return PairsLoader(fetcher, ready, self.begun.rows, accelerator.device)

    def learner(self, ready: Prepared) -> PairsLearner:
        bridge = load_bridge(at_home(self.options.checkpoint)).bridge
        compute = self.recipe.compute
        kept = opened(self.unet), self.recipe.loss, compute.checkpointing
        return PairsLearner(bridge, self.begun.empty, *kept)

    def save(
        self,
        ready: Prepared,
        learner: Learner,
        weights: Mapping[str, Tensor],
        longest: Mapping[str, int] | None,
        path: Path,
    ) -> None:
        """The bridge; what was measured of it beside a recording tells no longer how well it does,
        and is left out."""
        learner, loaded = cast(PairsLearner, learner), self.begun
        kept = self.spec.keeps_states(self.recipe.cache) or bool(self.recipe.cache.given)
        dtype = self.recipe.cache.dtype if kept else "float32"
        config = replace(loaded.bridge.config, dtype=dtype)
        bridge, tensors = finished(config, learner, weights, ready.readers, longest)
        told = {"from": "pictures", "steps": self.recipe.steps, "through": self.unet.base.stem}
        told["prediction"] = learner.prediction
        stages = json.dumps([*stages_of(loaded), told])
        write_bridge(path, LoadedBridge(bridge, loaded.rows, loaded.empty, "", stages), tensors)

    def plan(self, folder: Path) -> str:
        told: list[str] = []
        family = self.unet.shape.family
        assumed = assumed_bridge(self.options, self.recipe.cache.dtype, family)
        if assumed is not None:
            self.begun = assumed
            told.append(told_of_bridge(self.options, assumed.bridge.config))
        self.check_files()
        made = make_pairs_plan(self.recipe, self.begun, self.spec, self.unet, folder)
        return pairs_plan_text(replace(made, assumed=tuple(told)))
