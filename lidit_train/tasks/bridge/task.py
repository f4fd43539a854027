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
from lidit_core.bridge.file import LoadedBridge, write_bridge
from lidit_core.bridge.model import Bridge
from lidit_core.errors import check
from lidit_core.paths import at_home

from ...data.room import check_states_room
from ...learner import Learner
from ...loop.longest_prompt import recorded
from ...loop.parallel import share_of
from ...recipe import Data, Loss, Recipe, Source, Stage, Validation
from ..unused_fields import refuse, refuse_all
from .batches import BridgeLoader, PreparedBridge, readers_of, schedule_of
from .input import RecordedPrompts, bridge_config
from .learner import BridgeLearner
from .plan import make_bridge_plan
from .plan_text import bridge_plan_text
from .report import reports
from .start import begin_bridge

log = logging.getLogger(__name__)

NO_MODEL = "and a bridge has no model but itself"
OF_MODEL = "preset", "checkpoint", "pixart", "changes", "fresh_text"
NO_PICTURES = "and a bridge learns from no pictures"
NO_DRAWING = "and a bridge draws no pictures"
UNUSED = {
    **{f"model.{name}": NO_MODEL for name in OF_MODEL},
    "model.llms": "and the bridge's LLMs are bridge.llms",
    "model.vae": NO_PICTURES,
    "model.measure_latents": NO_PICTURES,
    **{
        f"lora.{name}": "which is for trains: lora" for name in ("rank", "alpha", "layers", "names")
    },
    "adapter": "which is for a U-Net (trains: adapter)",
    "content": "which a block of a LI-DiT learns",
    "place": "which a block of a LI-DiT learns",
    "contrast": "which is of flow matching",
    "alignment": NO_PICTURES,
    "routing": "which leads image tokens around blocks",
    "compute.checkpointing": "and a bridge is small",
    "compute.cuda_graph": "which records a LI-DiT",
    "compute.frozen": "and what is frozen of a bridge is float32",
    "compute.shard": "and a bridge is small",
    "cache.states": "and a bridge always keeps them",
    "cache.latents": NO_PICTURES,
    "log.time_bins": "and a bridge knows no time",
}


def make_task(recipe: Recipe) -> BridgeTask:
    """The task of a recipe that trains a bridge.

    Raises:
        LiDiTError: the recipe has fields that this training does not use, or that do not fit.
    """
    check(
        recipe.bridge is not None,
        "the recipe trains 'bridge' and has no bridge; expected one with llms",
    )
    refuse(recipe, UNUSED)
    kinds = [source.kind for source in recipe.data.sources]
    check(
        kinds == ["recording"],
        f"the recipe trains 'bridge' and its data's sources are {', '.join(kinds)}; expected one "
        "of kind recording",
    )
    source = recipe.data.sources[0]
    refuse_all(source, Source("recording", source.path), "data.sources.0", NO_PICTURES, "bridge")
    refuse_all(recipe.data, Data(recipe.data.sources), "data", NO_PICTURES, "bridge")
    refuse_all(recipe.validation, Validation(), "validation", NO_DRAWING, "bridge")
    refuse_all(recipe.loss, Loss(), "loss", "and a bridge has a loss of its own", "bridge")
    for n, stage in enumerate(recipe.stages):
        plain = Stage(stage.images, stage.batch, rate=stage.rate)
        refuse_all(stage, plain, f"stages.{n}", "and a bridge's stages have no such", "bridge")
    return BridgeTask(recipe)


class BridgeTask:
    """Trains a bridge's residual on its ridge; see `lidit_train.tasks.task.Task`."""

    def __init__(self, recipe: Recipe) -> None:
        assert recipe.bridge is not None  # `make_task` has seen to it
        self.options = recipe.bridge
        self.recipe = replace(recipe, log=replace(recipe.log, time_bins=1))

    @cached_property
    def prompts(self) -> RecordedPrompts:
        return RecordedPrompts.open(self.recipe.data.sources[0].path, self.options.add)

    @cached_property
    def config(self) -> BridgeConfig:
        return bridge_config(self.options, self.recipe.cache.dtype, self.prompts.written)

    @cached_property
    def llms(self) -> Mapping[str, str]:
        """Where each LLM is, by the name that it gives itself."""
        names = [llm.name for llm in self.config.llms]
        check(
            len(set(names)) == len(names),
            f"the recipe's bridge has llms {', '.join(names)}; expected each once",
        )
        return dict(zip(names, self.options.llms))

    def check_files(self) -> None:
        """The recording is whole, and its first prompt is what its teacher's layout says."""
        for prompts in (self.prompts, self.prompts.own or self.prompts):
            missing = prompts.recording.missing()
            check(
                not missing,
                f"{prompts.recording.folder} lacks {len(missing)} of its "
                f"{prompts.recording.shards} files; record the same prompts once more, which goes "
                "on where it stopped",
            )
            _ = prompts.empty, prompts.target(0)
        _ = self.llms

    def check_data(self) -> None:
        """Two prompts or more are there, so that one can be held out."""
        self.prompts.split(self.options.held_out, self.recipe.seed)

    def read_llms(self) -> list[str]:
        return list(self.llms)

    def _cache(self, out: Path) -> Path:
        return at_home(self.recipe.cache.folder or out / "cache")

    def _readers(self, out: Path, accelerator: Accelerator, llms: Mapping[str, str]):
        return readers_of(self.config.llms, self.recipe.cache, self._cache(out), accelerator, llms)

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
        return BridgeLoader(ready, share_of(accelerator), accelerator.device)

    def unused(self, out: Path, accelerator: Accelerator, llms: Mapping[str, str]) -> list[Path]:
        readers = self._readers(out, accelerator, llms).values()
        kept = {path for reader in readers for path in reader.files(self.prompts.texts)}
        folder = self._cache(out) / "states"
        return [path for path in sorted(folder.glob("*/*.safetensors")) if path not in kept]

    def learner(self, ready: PreparedBridge) -> BridgeLearner:
        bridge = begin_bridge(ready, self.recipe.seed, self.recipe.model.whiten)
        return BridgeLearner(bridge, self.prompts)

    def save(
        self,
        ready: PreparedBridge,
        learner: Learner,
        weights: Mapping[str, Tensor],
        longest: Mapping[str, int] | None,
        path: Path,
    ) -> None:
        """The bridge, its base in float32, with what was measured on prompts that are held out."""
        learner = cast(BridgeLearner, learner)
        own = {k.removeprefix("bridge."): v for k, v in weights.items()}
        kept = {f"base.{k}": v.cpu() for k, v in learner.bridge.base.state_dict().items()}
        known = {i: reader.fingerprint for i, reader in ready.readers.items()}
        llms = recorded(ready.config.llms, longest, fingerprints=known)
        config = replace(ready.config, llms=llms)
        measured = Bridge(config)
        measured.load_state_dict(
            {k: v.to(measured.state_dict()[k]) for k, v in {**own, **kept}.items()}
        )
        found = reports(BridgeLearner(measured.eval(), self.prompts), ready)
        for name, report in found.items():
            log.info("%s on %d held out prompts: %s", name, report.prompts, report.line())
        told = json.dumps({name: report.to_dict() for name, report in found.items()})
        loaded = LoadedBridge(measured, self.prompts.written.rows, self.prompts.empty, told)
        write_bridge(path, loaded, {**own, **kept})

    def plan(self, folder: Path) -> str:
        return bridge_plan_text(make_bridge_plan(self.recipe, self.config, self.prompts, folder))
