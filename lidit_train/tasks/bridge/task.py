"""The training of a bridge: from a recipe to its learner, its file and its plan."""

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

from lidit_core.bridge.config import BridgeConfig
from lidit_core.bridge.file import LoadedBridge, load_bridge, write_bridge
from lidit_core.bridge.model import Bridge
from lidit_core.bridge.recorded import RecordedPrompts
from lidit_core.errors import LiDiTError, check
from lidit_core.paths import at_home

from ...data.caption_states import open_readers
from ...data.room import check_states_room
from ...learner import Learner
from ...loop.parallel import share_of
from ...loop.validating.held_out_loss import LOSS
from ...recipe import BridgeOptions, Data, Loss, Recipe, Source, Stage, Validation
from ..adapter.target import UNetTarget, unet_target
from ..unused_fields import OF_A_LORA, refuse, refuse_all
from .assumed import assume
from .batches import BridgeLoader, PreparedBridge, schedule_of
from .input import bridge_config, check_recorded, resumed_config
from .learner import BridgeLearner
from .pairs.task import PairsTask, make_pairs_task
from .plan import make_bridge_plan
from .plan_text import bridge_plan_text
from .report import reports
from .saving import RIDGE, finished, stages_of, write_ridge
from .start import begin_bridge, new_bridge
from .unet.batches import ThroughLoader
from .unet.input import check_blocks, check_read, latent_shapes
from .unet.learner import opened
from .unet.measuring import GAP, HeldOutPrompts
from .unet.through import ThroughLearner

log = logging.getLogger(__name__)

NO_MODEL = "and a bridge has no model but itself"
OF_MODEL = "preset", "checkpoint", "pixart", "changes", "fresh_text"
NO_PICTURES = "and from a recording a bridge learns without pictures"
NO_DRAWING = "and from a recording a bridge draws no pictures"
ALL_READ = "and a bridge reads all of its LLMs and has no modes"
MEASURED = ("every", "at_start", "times", "seed", "patience")  # of the validation, through a U-Net
DRAWN = ("held_out", "prompts", "steps", "guidance")  # of it, from pictures
BESIDE = ("checkpoint", "llms", "through", "add", "held_out")  # what a bridge's file does not have
KNOWN = "which the bridge of bridge.checkpoint already has"
UNUSED = {
    **{f"model.{name}": NO_MODEL for name in OF_MODEL},
    "model.llms": "and the bridge's LLMs are bridge.llms",
    **OF_A_LORA,
    "adapter": "which is for a U-Net (trains: adapter)",
    "content": "which a block of a LI-DiT learns",
    "place": "which a block of a LI-DiT learns",
    "contrast": "which is of flow matching",
    "alignment": "which a block of a LI-DiT learns",
    "routing": "which leads image tokens around blocks",
    "compute.cuda_graph": "which records a LI-DiT",
    "compute.shard": "and a bridge is small",
}
OF_RECORDING = {
    "model.vae": NO_PICTURES,
    "model.measure_latents": NO_PICTURES,
    "cache.states": "and of a recording a bridge always keeps them",
    "cache.latents": NO_PICTURES,
}
WITHOUT_UNET = {  # fields that are read where there is one
    "compute.checkpointing": "and a bridge is small",
    "compute.frozen": "and what is frozen of a bridge is float32",
    "log.time_bins": "and a bridge knows no time",
}


WITH_BLOCKS = {"loss.weighting": "which weighs predictions, and bridge.through has blocks"}


def make_task(recipe: Recipe) -> BridgeTask | PairsTask:
    """The task of a recipe that trains a bridge.

    Raises:
        LiDiTError: the recipe has fields that this training does not use, or that do not fit.
    """
    options = recipe.bridge
    if options is None:
        raise LiDiTError("the recipe trains 'bridge' and has no bridge; expected one with llms")
    refuse(recipe, UNUSED)
    if options.checkpoint:
        given = {name: getattr(options, name) for name in BESIDE}
        refuse_all(options, BridgeOptions(**given), "bridge", KNOWN, "bridge")
        refuse(recipe, {"model.whiten": KNOWN})
    pictures = "recording" not in [source.kind for source in recipe.data.sources]
    return _of_pictures(recipe) if pictures else _of_recording(recipe, options)


def _of_pictures(recipe: Recipe) -> PairsTask:
    task, asked = make_pairs_task(recipe), recipe.validation
    read = {name: getattr(asked, name) for name in (*MEASURED, *DRAWN)}
    refuse_all(asked, Validation(**read), "validation", ALL_READ, "bridge")
    return task


def _of_recording(recipe: Recipe, options: BridgeOptions) -> BridgeTask:
    through = options.through is not None
    refuse(recipe, OF_RECORDING if through else {**OF_RECORDING, **WITHOUT_UNET})
    kinds = [source.kind for source in recipe.data.sources]
    check(
        kinds == ["recording"],
        f"the recipe trains 'bridge' and its data's sources are {', '.join(kinds)}; expected one "
        "of kind recording",
    )
    source = recipe.data.sources[0]
    refuse_all(source, Source("recording", source.path), "data.sources.0", NO_PICTURES, "bridge")
    refuse_all(recipe.data, Data(recipe.data.sources), "data", NO_PICTURES, "bridge")
    asked = recipe.validation
    if options.through is not None:
        refuse(recipe, {"validation.held_out": "and prompts are held out by bridge.held_out"})
        refuse(recipe, WITH_BLOCKS if options.through.blocks else {})
    read = {name: getattr(asked, name) for name in MEASURED} if through else {}
    refuse_all(asked, Validation(**read), "validation", NO_DRAWING, "bridge")
    if not through:
        refuse_all(recipe.loss, Loss(), "loss", "and a bridge has a loss of its own", "bridge")
    for n, stage in enumerate(recipe.stages):
        side = stage.resolution if through else 0
        plain = Stage(stage.images, stage.batch, rate=stage.rate, resolution=side)
        refuse_all(stage, plain, f"stages.{n}", "and a bridge's stages have no such", "bridge")
    return BridgeTask(recipe)


class BridgeTask:
    """Trains a bridge's residual on its ridge; see `lidit_train.tasks.task.Task`."""

    def __init__(self, recipe: Recipe) -> None:
        assert recipe.bridge is not None  # `make_task` has seen to it
        self.options, self.through = recipe.bridge, recipe.bridge.through
        if self.through is None:
            recipe = replace(recipe, log=replace(recipe.log, time_bins=1))
        self.recipe = recipe
        self.measured: HeldOutPrompts | None = None
        self.before: dict[str, float] | None = None  # what that says of the run's beginning

    @cached_property
    def prompts(self) -> RecordedPrompts:
        return RecordedPrompts.open(self.recipe.data.sources[0].path, self.options.add)

    @cached_property
    def config(self) -> BridgeConfig:
        dtype = self.recipe.cache.dtype
        if self.options.checkpoint:
            return resumed_config(self.options, dtype, self.prompts)
        return bridge_config(self.options, dtype, self.prompts.written.spec)

    @cached_property
    def unet(self) -> UNetTarget | None:
        """The U-Net that is trained through."""
        if self.through is None:
            return None
        return unet_target(self.through.base, self.through.prediction)

    @cached_property
    def checkpoint(self) -> LoadedBridge | None:
        """The bridge that is gone on from."""
        path = self.options.checkpoint
        return load_bridge(at_home(path)) if path else None

    @cached_property
    def llms(self) -> Mapping[str, str]:
        """The sources of the LLMs, by the names that they give themselves."""
        names = [llm.name for llm in self.config.llms]
        check(
            len(set(names)) == len(names),
            f"the recipe's bridge has llms {', '.join(names)}; expected each once",
        )
        return dict(zip(names, self.options.llms or names))

    def check_files(self) -> None:
        """The recording is whole, and its first prompt is what its teacher's layout says."""
        for prompts in (self.prompts, self.prompts.own or self.prompts):
            check_recorded(prompts)
        _ = self.llms
        self._check_unet()

    def _check_unet(self) -> None:
        """The U-Net reads what is written, and a trajectory has as many steps as are measured."""
        if self.unet is not None and self.through is not None:
            check_read(self.unet, self.config.teacher)
            check_blocks(self.unet, self.through.blocks)
            sizes = self.recipe.validation.times, self.through.steps
            check(
                sizes[0] <= sizes[1],
                f"the recipe's validation has times={sizes[0]}, and a trajectory of "
                f"bridge.through {sizes[1]} steps; expected no more times than steps",
            )

    def check_data(self) -> None:
        """Two prompts or more are there, so that one can be held out; sizes are the U-Net's."""
        self.prompts.split(self.options.held_out, self.recipe.seed)
        if self.unet is not None:
            latent_shapes(self.recipe, self.unet)

    def read_llms(self) -> list[str]:
        return list(self.llms)

    def _cache(self, out: Path) -> Path:
        return at_home(self.recipe.cache.folder or out / "cache")

    def _readers(self, out: Path, accelerator: Accelerator, llms: Mapping[str, str]):
        named, folder = dict(enumerate(self.config.llms)), self._cache(out) / "states"
        return open_readers(named, folder, self.recipe.cache, accelerator, llms)

    def prepare(
        self, out: Path, accelerator: Accelerator, llms: Mapping[str, str]
    ) -> PreparedBridge:
        """Let every LLM read the prompts that are not in the cache, each process its share."""
        readers = self._readers(out, accelerator, llms)
        learnt, held_out = self.prompts.split(self.options.held_out, self.recipe.seed)
        texts = [self.prompts.texts[n] for n in (*learnt, *held_out)]
        mine = texts[accelerator.process_index :: accelerator.num_processes]
        for i, reader in readers.items():
            if not self.recipe.cache.given:
                width = self.config.llms[i].state_width
                check_states_room(
                    self.config.llms,
                    width,
                    i,
                    reader,
                    mine,
                    accelerator.num_processes,
                    "record fewer prompts",
                )
            reader.prepare(mine)
            reader.unload()
        accelerator.wait_for_everyone()
        schedule = schedule_of(self.recipe, self.prompts, learnt)
        return PreparedBridge(self.config, self.prompts, readers, learnt, held_out, schedule, out)

    def loader(self, ready: PreparedBridge, accelerator: Accelerator) -> BridgeLoader:
        own = ready, share_of(accelerator), accelerator.device
        if self.unet is None:
            return BridgeLoader(*own)
        return ThroughLoader(*own, self.recipe, latent_shapes(self.recipe, self.unet))

    def held_out(
        self, ready: PreparedBridge, loader: BridgeLoader, accelerator: Accelerator
    ) -> HeldOutPrompts | None:
        """What measures prompts through the U-Net; without one a file tells as it is written."""
        if self.unet is not None:
            shape = latent_shapes(self.recipe, self.unet)[-1]
            self.measured = HeldOutPrompts(self.recipe, ready, shape, accelerator)
        return self.measured

    def unused(self, out: Path, accelerator: Accelerator, llms: Mapping[str, str]) -> list[Path]:
        readers = self._readers(out, accelerator, llms).values()
        kept = {path for reader in readers for path in reader.files(self.prompts.texts)}
        folder = self._cache(out) / "states"
        return [path for path in sorted(folder.glob("*/*.safetensors")) if path not in kept]

    def learner(self, ready: PreparedBridge) -> BridgeLearner:
        if self.checkpoint is not None:
            bridge = load_bridge(at_home(self.options.checkpoint)).bridge
        else:
            bridge = begin_bridge(ready, self.recipe.seed, self.recipe.model.whiten)
        if self.unet is None:
            return BridgeLearner(bridge)
        of_blocks = 0 if self.through is None else self.through.blocks
        begun = opened(self.unet), self.recipe.loss, self.recipe.compute.checkpointing
        return ThroughLearner(bridge, self.prompts.empty, *begun, of_blocks)

    def save(
        self,
        ready: PreparedBridge,
        learner: Learner,
        weights: Mapping[str, Tensor],
        longest: Mapping[str, int] | None,
        path: Path,
    ) -> None:
        """The bridge, its base in float32, with what was measured on prompts that are held out.

        The ridge that a first run began with is left in the run's folder too.
        """
        learner = cast(BridgeLearner, learner)
        given = ready.config, learner, weights, ready.readers, longest
        measured, tensors = finished(*given)
        found = reports(BridgeLearner(measured), ready)
        for name, report in found.items():
            log.info("%s on %d held out prompts: %s", name, report.prompts, report.line())
        told = json.dumps({name: report.to_dict() for name, report in found.items()})
        stages = self._stages(ready, learner, measured)
        loaded = LoadedBridge(measured, self.prompts.written.rows, self.prompts.empty, told, stages)
        write_bridge(path, loaded, tensors)
        if "ridge" in found and measured.config.base and self.checkpoint is None:
            report = json.dumps({"bridge": found["ridge"].to_dict()})
            write_ridge(loaded, report, ready.folder / RIDGE)

    def _stages(self, ready: PreparedBridge, learner: BridgeLearner, bridge: Bridge) -> str:
        """How the bridge was trained, this run at last; "" = from a recording alone."""
        recording = {"from": self.prompts.recording.folder.name, "steps": self.recipe.steps}
        before = stages_of(self.checkpoint) if self.checkpoint else []
        if isinstance(learner, ThroughLearner):
            assert self.unet is not None and self.measured is not None  # as `begin_run` has asked
            figures = self._figures(ready, learner, bridge)
            through = {"through": self.unet.base.stem, "prediction": learner.prediction}
            return json.dumps([*before, {**recording, **through, **figures}])
        return json.dumps([*before, recording]) if before else ""

    def _figures(
        self, ready: PreparedBridge, learner: ThroughLearner, bridge: Bridge
    ) -> dict[str, dict[str, float]]:
        """What is measured through the U-Net of the bridge that the run began with, and now."""
        assert self.measured is not None
        device = learner.bridge.base.mean.device
        if self.before is None:
            if self.checkpoint is not None:
                first = self.checkpoint.bridge
            else:
                first = new_bridge(ready)
                first.base.load_state_dict(learner.bridge.base.state_dict())
            self.before = self.measured.of(learner, first.to(device))
        after = self.measured.of(learner, bridge.to(device))
        told = self.before[GAP], after[GAP], self.before[LOSS], after[LOSS]
        log.info("text gap kept %.4f before this run, %.4f now; error %.6f and %.6f", *told)
        bridge.to("cpu")
        return {"before": self.before, "after": after}

    def plan(self, folder: Path) -> str:
        family = "" if self.unet is None else self.unet.shape.family
        assumed = assume(self.recipe, family, lambda: self.prompts.written.spec)
        if assumed.config is not None:
            self.config = assumed.config
        self._check_unet()
        prompts = assumed.prompts or self.prompts
        made = make_bridge_plan(self.recipe, self.config, prompts, folder, self.unet)
        return bridge_plan_text(replace(made, assumed=assumed.told))
