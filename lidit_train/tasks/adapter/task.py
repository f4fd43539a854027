"""The training of an LLMDiff adapter: from a recipe to its learner, its file and its plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from lidit_core.errors import check
from lidit_core.llmdiff.file import write_adapter

from ...data.prepare import Prepared, some_captions
from ...loop.longest_prompt import recorded
from ...recipe import BASE_ALONE, Recipe
from ..pictures import PictureTask
from ..unused_fields import OF_A_LORA, refuse
from .base_text import find_base_text
from .input import input_spec
from .learner import AdapterLearner
from .plan import make_adapter_plan
from .plan_text import adapter_plan_text
from .start import ADAPTER_SAMPLE, begin_adapter, check_start, reads_own_text
from .target import adapter_target

BASE = "and an adapter begins with its base: it has no model of its own"
UNUSED = {
    "model.preset": BASE,
    "model.checkpoint": BASE,
    "model.pixart": BASE,
    "model.changes": BASE,
    "model.llms": "and the adapter's LLM is adapter.llm",
    "model.fresh_text": BASE,
    "model.measure_latents": "and the base was trained on the latents that its family has",
    **OF_A_LORA,
    "bridge": "which is for trains: bridge",
    "content": "which a block of a LI-DiT learns",
    "place": "which a block of a LI-DiT learns",
    "validation.branches": "and an adapter reads one LLM",
    "compute.cuda_graph": "which records a LI-DiT: an adapter's checkpoint may read texts itself",
    "alignment": "which a block of a LI-DiT learns",
    "routing": "which leads tokens around a LI-DiT's blocks, and a U-Net has none such",
    "contrast": "which is of flow matching, and the adapter's base predicts eps or v",
}


def make_task(recipe: Recipe) -> AdapterTask:
    """The task of a recipe that trains an adapter.

    Raises:
        LiDiTError: the recipe has fields that this training does not use, or that do not fit.
    """
    check(
        recipe.adapter is not None,
        "the recipe trains 'adapter' and has no adapter; expected one with base and llm",
    )
    refuse(recipe, UNUSED)
    for source in recipe.data.sources:
        check(
            not source.branches,
            f"source {source.path} names branches {list(source.branches)}, and an adapter reads "
            "one LLM; leave them out",
        )
    check(
        not any(stage.subsets for stage in recipe.stages),
        "a stage has subsets of branches, and an adapter reads one LLM; leave them out",
    )
    task = AdapterTask(recipe)
    modes = task.options.modes
    for mode in recipe.validation.modes:
        check(
            mode in (BASE_ALONE, *modes),
            f"the validation draws mode {mode!r}, and the adapter is trained in "
            f"{', '.join(modes)}; expected one of these, or {BASE_ALONE}",
        )
    return task


class AdapterTask(PictureTask):
    """Trains an adapter in all its modes; see `lidit_train.tasks.task.Task`."""

    def __init__(self, recipe: Recipe) -> None:
        assert recipe.adapter is not None  # `make_task` has seen to it
        self.recipe, self.options = recipe, recipe.adapter
        self.target = adapter_target(self.options)
        self.spec = input_spec(self.target)
        self.checkpoint = self.target.base if self.target.base.exists() else None
        self.llms: Mapping[str, str] = {self.target.adapter.llm.name: self.options.llm}

    def check_files(self) -> None:
        check_start(self.options, self.target.adapter)
        if reads_own_text(self.options, self.recipe.validation):
            find_base_text(self.target, self.options.text_encoders)

    def learner(self, ready: Prepared) -> AdapterLearner:
        states = None
        if self.recipe.model.whiten:
            states = ready.readers[0].read(some_captions(ready, ADAPTER_SAMPLE))
        return begin_adapter(self.recipe, self.target, states)

    def save(
        self,
        ready: Prepared,
        learner: AdapterLearner,
        weights: Mapping[str, Tensor],
        longest: Mapping[str, int] | None,
        path: Path,
    ) -> None:
        """The adapter alone: its base's weights and text encoders stay where they are."""
        own = "adapter."
        state = {k.removeprefix(own): weights[k] for k in weights if k.startswith(own)}
        (llm,) = recorded(self.spec.llms, longest, fingerprints=ready.fingerprints)
        write_adapter(path, state, replace(self.target.adapter, llm=llm))

    def plan(self, folder: Path) -> str:
        return adapter_plan_text(make_adapter_plan(self.recipe, self.target, folder))
