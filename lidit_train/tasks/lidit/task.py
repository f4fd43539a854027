"""The training of a LI-DiT: from a recipe to its learner, its file and its plan."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from lidit_core.checkpoints.lidit import save_lidit
from lidit_core.errors import check
from lidit_core.model.config import LiDiTConfig
from lidit_core.paths import at_home

from ...data.latent_statistics import with_preview
from ...data.prepare import Prepared, some_captions, some_latents
from ...data.vision.encoder import VisionEncoder
from ...loop.computing.cuda_graph import check_alone
from ...loop.longest_prompt import recorded
from ...recipe import EIGHT_BITS, Model, Recipe, Stage
from ..pictures import PictureTask
from ..unused_fields import OF_A_LORA, refuse
from ..whitening import SAMPLE, whiten_entries
from .alignment import AlignmentHead
from .input import input_spec
from .learner import LiDiTLearner
from .lora import add_lora, changed_layers, save_lora
from .places import PositionHead
from .plan.plan import make_plan
from .plan.text import plan_text
from .routing import check_routing
from .start import begin, check_start, checkpoint_path, configuration, fresh_branches
from .trained import on_meta, trained_branches, trained_by

log = logging.getLogger(__name__)


def make_task(recipe: Recipe) -> LiDiTTask:
    """The task of a recipe that trains a LI-DiT, its refiners or a LoRA.

    Raises:
        LiDiTError: the recipe has fields that this training does not use, or that do not fit.
    """
    _check_recipe(recipe)
    task = LiDiTTask(recipe)
    _check_losses(recipe, task.config)
    check_routing(recipe, task.config, task.spec)
    if recipe.trains == "refiners":
        _check_subsets(recipe.model, recipe.stages, task.config)
    return task


class LiDiTTask(PictureTask):
    """Trains what the recipe's ``trains`` says of a LI-DiT; see `lidit_train.tasks.task.Task`."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.config = configuration(recipe.model, recipe.stages)
        self.spec = input_spec(self.config)
        self.llms: Mapping[str, str] = {}
        self.checkpoint = checkpoint_path(recipe.model) if recipe.model.checkpoint else None
        self._shown: LiDiTConfig | None = None  # with the previews that a file tells of

    def check_files(self) -> None:
        check_start(self.recipe.model, self.config)
        if self.recipe.alignment is not None:
            VisionEncoder(at_home(self.recipe.alignment.encoder), self.spec.grain).check()
        if self.recipe.trains == "lora":
            changed_layers(on_meta(self.config), self.recipe.lora)

    def learner(self, ready: Prepared) -> LiDiTLearner:
        recipe, config = self.recipe, replace(self.config, latent=ready.spec.latent)
        start = begin(recipe.model, recipe.seed, config)
        for note in start.notes:
            log.info(note)
        if recipe.model.whiten:
            texts = some_captions(ready, SAMPLE)
            fresh = {i: ready.readers[i].read(texts) for i in start.fresh if i in ready.readers}
            whiten_entries(start.model, fresh)
        trained = trained_by(recipe.trains, recipe.lora, config, start.fresh)
        for name, parameter in start.model.named_parameters():
            parameter.requires_grad_(trained.weight(name))
        aligned = None
        if recipe.alignment is not None and ready.vision is not None:
            aligned = AlignmentHead(recipe.alignment, config.width, ready.vision.width)
        learner = LiDiTLearner(
            start.model,
            recipe.content,
            recipe.compute.checkpointing,
            recipe.contrast,
            recipe.loss,
            recipe.routing,
            aligned,
            PositionHead(recipe.place, config.width) if recipe.place else None,
        )
        if recipe.trains == "lora":
            learner.lora = add_lora(start.model, recipe.lora)
        return learner

    def save(
        self,
        ready: Prepared,
        learner: LiDiTLearner,
        weights: Mapping[str, Tensor],
        longest: Mapping[str, int] | None,
        path: Path,
    ) -> None:
        """A LI-DiT with what a host needs for previews; or the LoRA alone."""
        config = replace(self.config, latent=ready.spec.latent)
        if self.recipe.trains == "lora":
            base = self.recipe.model.checkpoint or self.recipe.model.preset
            return save_lora(learner.lora, config, path, base, _part(weights, "lora."), longest)
        learnt = trained_branches(learner.model)
        latent = self._previews(config, ready).latent
        config = replace(
            config, llms=recorded(config.llms, longest, learnt, ready.fingerprints), latent=latent
        )
        save_lidit(_part(weights, "model."), config, path)

    def _previews(self, config: LiDiTConfig, ready: Prepared) -> LiDiTConfig:
        """The configuration with what a host needs for previews, which is found out once."""
        if config.latent.rgb_factors:
            return config
        if self._shown is None:
            some = some_latents(ready.sources, ready.stages[-1], ready.vae, ready.latents)
            self._shown = with_preview(config, ready.vae.decode, some)
        return self._shown

    def plan(self, folder: Path) -> str:
        recipe, config = self.recipe, self.config
        fresh = fresh_branches(recipe.model, config)
        trained = trained_by(recipe.trains, recipe.lora, config, fresh)
        return plan_text(make_plan(recipe, config, trained, folder=folder))


def _part(weights: Mapping[str, Tensor], place: str) -> dict[str, Tensor]:
    """The weights whose names begin so, without that beginning."""
    return {k.removeprefix(place): weights[k] for k in weights if k.startswith(place)}


def _check_recipe(recipe: Recipe) -> None:
    m = recipe.model
    refuse(recipe, {"adapter": "which is for a U-Net (trains: adapter)"})
    refuse(recipe, {"bridge": "which is for trains: bridge"})
    refuse(recipe, {"validation.modes": "which are an adapter's"})
    check_alone(recipe.compute)
    if not m.checkpoint:
        refuse(recipe, {"model.fresh_text": "and a new model's text side is fresh anyway"})
    if recipe.trains == "lora":
        refuse(recipe, {"model.fresh_text": "whose weights no LoRA would hold"})
    if recipe.trains == "all":
        refuse(recipe, {"compute.frozen": "and of such a model nothing is frozen"})
    check(
        recipe.trains != "refiners" or recipe.compute.frozen not in EIGHT_BITS,
        f"the recipe trains 'refiners' and has compute.frozen={recipe.compute.frozen}, and the "
        "file that comes out holds the transformer too, which would be written from 8 bits; set "
        "compute.frozen=bf16, or leave it out",
    )
    if recipe.trains != "lora":
        refuse(recipe, OF_A_LORA)
    check(
        bool(m.preset) + bool(m.checkpoint) == 1,
        f"the recipe's model has preset={m.preset!r} and checkpoint={m.checkpoint!r}; expected "
        "exactly one of them",
    )


def _check_subsets(model: Model, stages: Sequence[Stage], config: LiDiTConfig) -> None:
    """Every step must read a branch whose refiner is trained."""
    fresh = fresh_branches(model, config) or tuple(range(len(config.llms)))
    for stage in stages:
        for subset in stage.subsets:
            check(
                bool({*subset.branches} & {*fresh}),
                f"a stage reads branches {list(subset.branches)} alone, and the recipe trains the "
                f"refiners of {list(fresh)}; name one of these in each subset, or leave it out",
            )


def _check_losses(recipe: Recipe, config: LiDiTConfig) -> None:
    """The losses beside the denoising: of blocks that are there, contrast within flow."""
    for name in ("content", "alignment", "place"):
        lesson = getattr(recipe, name)
        check(
            lesson is None or 0 <= lesson.block < config.depth,
            f"the recipe's {name} is read after block {lesson and lesson.block}; expected one of "
            f"0 to {config.depth - 1}",
        )
    if recipe.contrast is not None:
        check(
            config.prediction == "flow",
            f"the recipe's contrast is of flow matching, and the model predicts "
            f"{config.prediction}; leave contrast out",
        )
        check(
            recipe.loss.error == "squared",
            f"the recipe's contrast is a difference of squared errors, and loss.error is "
            f"{recipe.loss.error}; expected squared, or leave contrast out",
        )
        check(
            all(stage.batch > 1 for stage in recipe.stages),
            "a stage has batch=1 and the recipe has contrast, which is between samples of a batch; "
            "expected 2 or more, or leave contrast out",
        )
