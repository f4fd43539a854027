"""Training a bridge through a MODEL: the run, from what a node is given to the bridge's file."""

from __future__ import annotations

import copy
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.samplers
import folder_paths
import latent_preview
import torch
from comfy import model_management

from ....lidit_core.bridge.file import LoadedBridge, load_bridge, write_bridge
from ....lidit_core.bridge.recorded import ALIKE, RecordedPrompts, form
from ....lidit_core.errors import LiDiTError, check, shown
from ....lidit_core.io.conditioning import distance
from ....lidit_core.io.recording import NAME
from ...folders import BRIDGES, SUFFIX, plain_name
from ...llm.reader import HostCLIP
from ...node_notes import note, report
from ...samplers import sampled_latent
from ..files import GAP, adds, writes_of
from ..model_reads import check_model
from ..readers import assigned
from .about import Latents, about_run
from .gradients import Gradients
from .known_again import difference, untold
from .learning import Options, TrainingSampler
from .measuring import MOST
from .model_anew import check_loads_again, model_anew
from .prompts import Prompts
from .recordings import NOTHING, find_recording
from .run_state import RunState

HELD_OUT = 0.02  # of the prompts, MOST at most


@dataclass(frozen=True, eq=False)
class Connected:
    """What is connected to the node."""

    loaded: Any
    clips: Sequence[HostCLIP]
    model: Any
    latent: Mapping[str, Any]  # a LATENT of one picture: the size that is drawn at


@dataclass(frozen=True)
class Recordings:
    """Folders of recordings.

    Args:
        learnt: of the text encoder that is learnt from.
        added_to: of the checkpoint's own, where the bridge adds to it.
    """

    learnt: Path
    added_to: Path | None = None


def train_bridge(
    given: Connected,
    recordings: Recordings,
    name: str,
    options: Options,
    checkpointing: bool,
) -> LoadedBridge:
    """Train a bridge further through a model, or go on with a run that was stopped.

    Args:
        name: of the bridge's file in models/bridges.
        checkpointing: compute each block of the model once more for the gradient, which saves
            memory.
    Raises:
        LiDiTError: something does not fit, or a file of that name is another run's.
        InterruptProcessingException: the user has stopped it; what is done so far is kept.
    """
    loaded = _check(given, recordings.added_to)
    with torch.inference_mode(False), torch.enable_grad():
        prompts = _prompts(loaded, given, recordings)
        latent = sampled_latent(given.model, given.latent)
        latents = Latents(given.latent["samples"], latent)
        about = about_run(given.model, latents, loaded, prompts, options)
        path, state = _files(name, about)
        if path.exists():
            return _trained(path, about)
        _check_writable(path, state.path)
        made = LoadedBridge(copy.deepcopy(loaded.bridge), loaded.rows, loaded.empty)
        learner = TrainingSampler(made, prompts, options, state, Gradients(checkpointing), HELD_OUT)
        prompts.prepare(learner.numbers())
        _sample(given, latent, learner)
        figures = learner.figures
        stages = [*_stages(loaded), {**about, **figures}]
        made.bridge.eval().cpu()
        made.bridge.config = replace(
            made.bridge.config, llms=prompts.trained_on(learner.learnt_from())
        )
        # without a report, as that of the bridge that was gone on from is true of it alone
        written = replace(made, stages=json.dumps(stages))
        write_bridge(path, written)
        state.remove()
    report(_told(path, figures))
    return written


def fingerprint(recording: str | None, name: str | None, add_to: str | None = NOTHING) -> str:
    """A value that changes with the recording of that name, or once the bridge's file is gone."""
    if recording is None or name is None:  # another node gives it, at which the host looks
        return ""
    names = [each for each in (recording, add_to) if each not in (None, NOTHING)]
    try:
        stats = [os.stat(find_recording(each) / NAME) for each in names]
        made = [f"{stat.st_size} {stat.st_mtime_ns}" for stat in stats]
        return " ".join([*made, str(os.path.isfile(_path(name)))])
    except (LiDiTError, OSError, ValueError) as error:
        return type(error).__name__


def _check(given: Connected, added_to: Path | None) -> LoadedBridge:
    loaded = given.loaded
    if not isinstance(loaded, LoadedBridge):
        raise LiDiTError(
            "what is connected as bridge is no bridge that learns, but "
            f"{type(loaded).__name__}; load one that `lidit train recipes/bridge.yaml` made"
        )
    name = writes_of(loaded).name
    check(
        not adds(loaded) or added_to is not None,
        f"this bridge adds to what {name} writes, and add_to is none; choose there the recording "
        "of the checkpoint's own CLIP, of the same prompts",
    )
    check(
        adds(loaded) or added_to is None,
        f"this bridge writes in the place of {name} and adds to nothing; set add_to to none",
    )
    check(
        any(True for _ in loaded.bridge.parameters()),
        "this bridge is a ridge alone, of which nothing is learnt; load one with a residual",
    )
    check_loads_again(given.model)
    check_model(loaded, given.model)
    return loaded


def _prompts(loaded: LoadedBridge, given: Connected, folders: Recordings) -> Prompts:
    """The recording's prompts, once it is known that the bridge writes what it holds."""
    recorded = RecordedPrompts.open(str(folders.learnt), str(folders.added_to or ""))
    spec = loaded.bridge.config.teacher
    recording = (folders.added_to or folders.learnt).name
    there = recorded.written.spec
    check(
        form(spec, loaded.rows) == form(there, recorded.written.rows),
        f"this bridge writes rows of {spec.name}, {spec.width} wide, and {recording} holds those "
        f"of {there.name}, {there.width} wide, laid out otherwise; choose the recording of the "
        "encoder that the bridge was trained for",
    )
    far = distance(loaded.empty, recorded.empty)
    if far > ALIKE:
        note(
            f"the recording {recording} is not of the text encoder that this bridge learnt from: "
            f"its empty prompt is {far:.2g} off; the bridge learns to write this one's, and keeps "
            "the empty prompt of the other"
        )
    clips = assigned(loaded.bridge.config.llms, given.clips, by_name=True)
    return Prompts(recorded, loaded, clips)


def _files(name: str, about: dict) -> tuple[Path, RunState]:
    """The bridge's file, and that of the run until it is there."""
    plain = _plain(name)
    folder = Path(folder_paths.get_output_directory()) / BRIDGES
    return _path(name), RunState(folder / f"{plain}.run{SUFFIX}", about)


def _check_writable(*files: Path) -> None:
    """Let the system refuse, before hours of training, a folder that cannot be written."""
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=file.parent).close()


def _path(name: str) -> Path:
    return Path(folder_paths.get_folder_paths(BRIDGES)[0]) / f"{_plain(name)}{SUFFIX}"


def _plain(name: str) -> str:
    """The name of the file, without its ending.

    Raises:
        LiDiTError: there is none, or it leads out of the folder.
    """
    plain = plain_name(name).strip("/ ").removesuffix(SUFFIX)
    check(bool(plain), f"the bridge has no name ({shown(name)}); write one, which is its file's")
    return plain


def _trained(path: Path, about: dict) -> LoadedBridge:
    """The file of a run that has ended, if it is of this one."""
    loaded = load_bridge(path)
    last = _stages(loaded)[-1]
    other = difference(last, about)
    check(
        not other,
        f"there is a bridge {path.name} in models/{BRIDGES} that was trained {other}; choose "
        "another name",
    )
    if told := untold(last, path.name):
        note(told)
    report(_told(path, last))
    return loaded


def _stages(loaded: LoadedBridge) -> list[dict]:
    return json.loads(loaded.stages or '[{"from": "a recording"}]')


def _sample(given: Connected, latent: torch.Tensor, learner: TrainingSampler) -> None:
    """Run the learner as a sampler of the host on a model of its own."""
    model = model_anew(given.model)
    guider = comfy.samplers.CFGGuider(model)
    empty = [list(learner.made.empty)]
    guider.set_conds(empty, empty)
    learner.show = latent_preview.prepare_callback(model, learner.options.steps)
    model_management.load_models_gpu([model], memory_required=1e20, force_full_load=True)
    sigmas = torch.ones(1)  # the learner draws its own
    with learner.gradients.through(model.model.diffusion_model):
        guider.sample(torch.zeros_like(latent), latent, learner, sigmas, seed=learner.options.seed)


def _told(path: Path, figures: dict) -> str:
    before, after = figures["before"][GAP], figures["after"][GAP]
    return (
        f"{path.name} in models/{BRIDGES}: text gap kept {after:.3f}, {before:.3f} before, on "
        f"{min(MOST, figures['held out'])} prompts that this run did not learn from"
    )
