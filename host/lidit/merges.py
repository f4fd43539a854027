"""Merges of LI-DiTs: which two can be one model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import comfy.model_patcher
import comfy.model_sampling as host

from ...lidit_core.errors import LiDiTError
from ...lidit_core.model.config import LiDiTConfig
from ..node_notes import note
from ..patching.patches import check_bypass, check_weight_patches, tell_misfits

NAME = "this LI-DiT"  # in sentences

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
READ_AS = {True: "flow", False: "eps or v"}
SEEN_ALIKE = ("prediction", "latents", "the latents' scale")  # what two in one guider must have


def check_lidit_weights(patcher: comfy.model_patcher.ModelPatcher) -> None:
    """Refuse a merge with another kind of model, and tell of a LoRA that is for one.

    The host calls it before each run of a model, the second one of a guider too.

    Raises:
        LiDiTError: what the merge would draw is noise.
    """
    config = patcher.model.model_config.config

    def merged(misshapen: str, theirs: Any) -> None:
        known = isinstance(theirs, LiDiTConfig)
        told = _difference(config, theirs) if known else ""
        if told or misshapen:
            raise LiDiTError(
                f"a node merged this LI-DiT with another that differs in {told or misshapen}, of "
                "which no picture can come; merge models of one kind, such as two trainings of one "
                "checkpoint"
            )
        if known and _llms(theirs) != _llms(config):
            note(
                f"a node merged this LI-DiT, which reads {_llms(config)}, with one that reads "
                f"{_llms(theirs)}; the merged refiners fit neither, if these are not the same LLMs"
            )

    check_weight_patches(patcher, NAME, merged)
    check_bypass(patcher, NAME)
    tell_misfits(patcher)


def check_second(first: LiDiTConfig, second: comfy.model_patcher.ModelPatcher) -> None:
    """Refuse a guider's second model that sees other latents or other levels of noise.

    Raises:
        LiDiTError: what both would draw is noise.
    """
    theirs = getattr(second.model.model_config, "config", None)
    if isinstance(theirs, LiDiTConfig):
        told = _difference(first, theirs, SEEN_ALIKE)
    else:
        is_flow, theirs_is = first.prediction == "flow", isinstance(_schedule(second), host.CONST)
        channels = second.model.latent_format.latent_channels
        told = _first_difference(
            [
                ("prediction", READ_AS[is_flow], READ_AS[theirs_is]),
                ("channels of latents", first.latent.channels, channels),
            ]
        )
    if told:
        raise LiDiTError(
            f"a guider draws with this LI-DiT and a second model that differs in {told}, of which "
            "no picture can come; connect two models of one kind, such as two trainings of one "
            "checkpoint"
        )


def _schedule(patcher: comfy.model_patcher.ModelPatcher) -> Any:
    return patcher.get_model_object("model_sampling")


def _difference(config: LiDiTConfig, theirs: LiDiTConfig, names: Iterable[str] = ALIKE) -> str:
    """The first of these things in which two models differ; "" where they do in none."""
    return _first_difference((name, ALIKE[name](config), ALIKE[name](theirs)) for name in names)


def _first_difference(found: Iterable[tuple[str, Any, Any]]) -> str:
    return next((f"{name}, {ours} and {other}" for name, ours, other in found if ours != other), "")


def _llms(config: LiDiTConfig) -> str:
    return " and ".join(spec.name for spec in config.llms)
