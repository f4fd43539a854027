"""Makes the model that a run begins with, by its recipe, and says which of its weights learn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lidit_core.checkpoints.lidit import load_lidit, read_config
from lidit_core.checkpoints.refiner import branch_places
from lidit_core.errors import LiDiTError
from lidit_core.model.config import LiDiTConfig
from lidit_core.model.dit import LiDiT
from lidit_core.model.presets import PRESETS, find_preset
from lidit_core.shipped import find_model
from lidit_core.text.spec import LLMSpec

from ...recipe import Model, Stage
from .taps import with_taps

KNOWN_LLMS = {spec.name: spec for config in PRESETS.values() for spec in config.llms}


@dataclass(frozen=True)
class Start:
    """What a run begins with."""

    model: LiDiT
    fresh: tuple[int, ...]  # branches whose refiners start anew
    notes: tuple[str, ...]  # for the log, a sentence each


def configuration(asked: Model, stages: Sequence[Stage]) -> LiDiTConfig:
    """The configuration of the model that a recipe trains; nothing is loaded."""
    before = read_config(checkpoint_path(asked)) if asked.checkpoint else None
    config = before or find_preset(asked.preset)
    if asked.llms:
        config = replace(config, llms=tuple(_spec(name, config) for name in asked.llms))
    if asked.changes:
        changed = with_taps(_merged(json.loads(config.to_json()), asked.changes))
        config = LiDiTConfig.from_json(json.dumps(changed))
    size = max(stage.resolution or config.native_size for stage in stages)
    config = replace(config, llms=_trained_before(asked, config))
    return config if asked.checkpoint else replace(config, native_size=size)


def _trained_before(model: Model, config: LiDiTConfig) -> tuple[LLMSpec, ...]:
    """Each LLM with what its branch was trained on: weights, longest prompt; 0 if it is new."""
    new = tuple(replace(spec, longest_prompt=0, fingerprint="", storage="") for spec in config.llms)
    if not model.checkpoint:
        return new
    before = read_config(checkpoint_path(model))
    fresh = _fresh(model, config, before)
    return tuple(
        new[i] if i in fresh else _trained_as(spec, before.llms[i])
        for i, spec in enumerate(config.llms)
    )


def _trained_as(spec: LLMSpec, known: LLMSpec) -> LLMSpec:
    same = {name: getattr(known, name) for name in ("longest_prompt", "fingerprint", "storage")}
    return replace(spec, **same)


def checkpoint_path(model: Model) -> Path:
    return find_model(model.checkpoint)[0]


def _spec(name: str, config: LiDiTConfig) -> LLMSpec:
    """An LLM by the name that the model's configuration or a preset has for it."""
    known = KNOWN_LLMS | {spec.name: spec for spec in config.llms}
    if name not in known:
        raise LiDiTError(
            f"the recipe's model has the LLM {name!r}; expected one of {', '.join(known)}, or "
            "write its name, width, block and template into model.changes.llms"
        )
    return known[name]


def _merged(data: dict, changes: dict) -> dict:
    """Fields changed, those of records within one another too."""
    for key, value in changes.items():
        inside = isinstance(value, dict) and isinstance(data.get(key), dict)
        data = {**data, key: _merged(data[key], value) if inside else value}
    return data


def begin(asked: Model, seed: int, config: LiDiTConfig) -> Start:
    """The model with its first weights: new ones, a checkpoint's, or PixArt's where they fit."""
    torch.manual_seed(seed)
    model = LiDiT(config).initialise()
    everyone = tuple(range(len(config.llms)))
    if asked.checkpoint:
        return _from_checkpoint(model, asked)
    if asked.pixart:
        from .pixart import warm_start

        taken = warm_start(model, asked.pixart)
        return Start(model, everyone, tuple(taken.sentences()))
    return Start(model, everyone, ("all weights start anew",))


def _from_checkpoint(model: LiDiT, asked: Model) -> Start:
    """A checkpoint's weights; what is fresh of the text side keeps its new ones."""
    path = checkpoint_path(asked)
    old = load_lidit(path)
    mine, before = model.config, old.config
    _check_trunk(mine, before, asked)
    fresh = _fresh(asked, mine, before)
    places = tuple(place for i in range(len(mine.llms)) for place in _places(i))
    places += ("text_side.",) if asked.fresh_text else ()
    kept = tuple(p for i in range(len(mine.llms)) if i not in fresh for p in _places(i))
    taken = {
        key: value
        for key, value in old.state_dict().items()
        if key in model.state_dict() and (key.startswith(kept) or not key.startswith(places))
    }
    model.load_state_dict({**model.state_dict(), **taken})
    names = ", ".join(mine.llms[i].name for i in fresh)
    notes = (f"{len(taken)} tensors are taken from {path}",)
    return Start(model, fresh, notes + ((f"fresh branches: {names}",) if fresh else ()))


def check_start(asked: Model, config: LiDiTConfig) -> None:
    """Look whether the weights that a run begins with fit its model; none of a LI-DiT is read."""
    if asked.checkpoint:
        _check_trunk(config, read_config(checkpoint_path(asked)), asked)
    if asked.pixart:
        from .pixart import check_sizes
        from .pixart_file import read_pixart

        check_sizes(read_pixart(asked.pixart), config)


def _check_trunk(mine: LiDiTConfig, before: LiDiTConfig, asked: Model) -> None:
    new, old = (_trunk(config) for config in (mine, before))
    free = {"refiner"} if asked.fresh_text else set()
    if not before.position_dilation:  # a second position ResBlock begins as if it were not there
        free.add("position_dilation")
    told = [k for k, v in new.items() if v != old[k] and k not in free]
    if told:
        raise LiDiTError(
            f"the recipe changes {', '.join(told)} of the checkpoint {checkpoint_path(asked)}, "
            "whose weights then do not fit; change only its llms, shift, steps, guidance or "
            "native_size (its refiner too where model.fresh_text is true, and position_dilation "
            "where it has none), or begin from a preset"
        )


def _places(branch: int) -> tuple[str, ...]:
    return tuple(branch_places(branch).values())


def _trunk(config: LiDiTConfig) -> dict:
    """What the weights' shapes depend on, the LLMs left out."""
    names = ("depth", "width", "heads", "patch", "prediction", "refiner", "position_dilation")
    latent = {"channels": config.latent.channels, "downsampling": config.latent.downsampling}
    return {**{name: getattr(config, name) for name in names}, **latent}


def fresh_branches(asked: Model, config: LiDiTConfig) -> tuple[int, ...]:
    """The branches that will start anew, told without loading a weight."""
    if not asked.checkpoint:
        return tuple(range(len(config.llms)))
    return _fresh(asked, config, read_config(checkpoint_path(asked)))


def _fresh(asked: Model, config: LiDiTConfig, before: LiDiTConfig) -> tuple[int, ...]:
    if asked.fresh_text:
        return tuple(range(len(config.llms)))
    return _changed(config, before)


def _changed(config: LiDiTConfig, before: LiDiTConfig) -> tuple[int, ...]:
    """Branches whose LLM, or the way it is read, is not as it was."""
    return tuple(
        i
        for i, spec in enumerate(config.llms)
        if i >= len(before.llms) or _read_as(spec) != _read_as(before.llms[i])
    )


def _read_as(spec: LLMSpec) -> LLMSpec:
    """The LLM and the way it is read, whatever was trained with it."""
    return replace(spec, longest_prompt=None, fingerprint="", storage="")
