"""What other nodes have set on a LI-DiT's weights, merges and LoRAs: whether it is of such a model.

The host logs that a tensor has another shape and leaves it out, a merge scaling what it would have
been added to; where all shapes are the same it asks nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import comfy.model_patcher
import comfy.utils
from torch import Tensor, nn

from ...lidit_core.errors import LiDiTError
from ...lidit_core.model.config import LiDiTConfig
from ..node_notes import note

OF_MODEL = "lidit_config"  # on a weight: the configuration of the model that it belongs to
# what two models that are merged must have in common
ALIKE = {
    "prediction": lambda config: config.prediction,
    "latents": lambda config: config.latent.name,
    "the latents' scale": lambda config: (config.latent.mean, config.latent.std),
    "depth": lambda config: config.depth,
    "heads": lambda config: config.heads,
    "patch": lambda config: config.patch,
    "refiner": lambda config: config.refiner,
}


def name_owner(model: nn.Module, config: LiDiTConfig) -> None:
    """Write on each weight whose it is, for a merge takes weights alone."""
    for weight in model.parameters():
        setattr(weight, OF_MODEL, config)


def check_weight_patches(patcher: comfy.model_patcher.ModelPatcher, config: LiDiTConfig) -> None:
    """Refuse a merge with another kind of model, and tell of a LoRA that is for one.

    Raises:
        LiDiTError: what the merge would draw is noise.
    """
    misfits, count = [], 0
    for name, (strength, given, kept, offset, _) in _patches(patcher):
        weight = comfy.utils.get_attr(patcher.model, name)
        if not isinstance(weight, Tensor) or (strength == 0 and kept == 1):
            continue
        if offset is not None:
            weight = weight.narrow(*offset)
        if isinstance(given, list):
            _check_merged(name, given[0][0], weight, config)
            continue
        count += 1
        shape = _shape_of(given, weight)
        if shape is not None and shape != tuple(weight.shape):
            misfits.append(f"{name} {shape} instead of {tuple(weight.shape)}")
    if misfits:
        note(
            f"{len(misfits)} of the {count} weights that a LoRA changes have another shape in this "
            f"LI-DiT ({misfits[0]}), and ComfyUI leaves those out: it is for another model; choose "
            "one that was trained on this checkpoint"
        )


def _patches(patcher: comfy.model_patcher.ModelPatcher) -> Iterator[tuple[str, tuple]]:
    """Each patch of a weight with the weight's name, those of hooks among them."""
    for patches in (patcher.patches, *patcher.hook_patches.values()):
        for name, of_weight in patches.items():
            yield from ((name, patch) for patch in of_weight)


def _check_merged(name: str, other: Tensor, weight: Tensor, config: LiDiTConfig) -> None:
    theirs = getattr(other, OF_MODEL, None)
    told = "" if theirs is None else _difference(config, theirs)
    if not told and other.shape != weight.shape:
        told = f"the shape of {name}, {tuple(weight.shape)} and {tuple(other.shape)}"
    if told:
        raise LiDiTError(
            f"a node merged this LI-DiT with another that differs in {told}, of which no picture "
            "can come; merge models of one kind, such as two trainings of one checkpoint"
        )
    if theirs is not None and _llms(theirs) != _llms(config):
        note(
            f"a node merged this LI-DiT, which reads {_llms(config)}, with one that reads "
            f"{_llms(theirs)}; the merged refiners fit neither, if these are not the same LLMs"
        )


def _difference(config: LiDiTConfig, theirs: LiDiTConfig) -> str:
    """The first thing in which two models that cannot be merged differ; "" where none does."""
    found = ((name, of(config), of(theirs)) for name, of in ALIKE.items())
    return next((f"{name}, {ours} and {other}" for name, ours, other in found if ours != other), "")


def _llms(config: LiDiTConfig) -> str:
    return " and ".join(spec.name for spec in config.llms)


def _shape_of(given: Any, weight: Tensor) -> tuple[int, ...] | None:
    """What shape a change of a weight has, (out, in) flattened as the weight; None = unknown."""
    if getattr(given, "name", "") == "lora":
        up, down, _, middle, _, reshaped = given.weights
        if middle is not None or reshaped is not None:
            return None
        rows, columns = up.shape[0], down[0].numel()
        fits = (rows, columns) == (weight.shape[0], weight[0].numel())
        return tuple(weight.shape) if fits else (rows, columns)
    if isinstance(given, tuple) and given[:1] == ("diff",):
        given = given[1]
        if len(given) > 1 and given[1].get("pad_weight"):
            return None
    if isinstance(given, tuple) and len(given) == 1 and isinstance(given[0], Tensor):
        return tuple(given[0].shape)
    return None
