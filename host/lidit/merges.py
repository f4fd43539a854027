"""Merges of LI-DiTs: which two can be one model."""

from __future__ import annotations

from typing import Any

import comfy.model_patcher

from ...lidit_core.errors import LiDiTError
from ...lidit_core.model.config import LiDiTConfig
from ..node_notes import note
from ..weight_patches import check_weight_patches, tell_idle_lora

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


def check_lidit_weights(patcher: comfy.model_patcher.ModelPatcher, config: LiDiTConfig) -> None:
    """Refuse a merge with another kind of model, and tell of a LoRA that is for one.

    Raises:
        LiDiTError: what the merge would draw is noise.
    """

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
    tell_idle_lora(patcher)


def _difference(config: LiDiTConfig, theirs: LiDiTConfig) -> str:
    """The first thing in which two models that cannot be merged differ; "" where none does."""
    found = ((name, of(config), of(theirs)) for name, of in ALIKE.items())
    return next((f"{name}, {ours} and {other}" for name, ours, other in found if ours != other), "")


def _llms(config: LiDiTConfig) -> str:
    return " and ".join(spec.name for spec in config.llms)
