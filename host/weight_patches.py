"""What is asked of a model's weights: merges and LoRAs of such a model, storage the device knows.

The host logs that a tensor has another shape and leaves it out, a merge scaling what it would have
been added to; where all shapes are the same it asks nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch
from torch import Tensor, nn

from ..lidit_core.errors import LiDiTError
from .node_notes import note

OWNER = "lidit_owner"  # on a weight: what kind of model it belongs to
IDLE = "lidit_idle_lora"  # among a patcher's attachments, where a LoRA changes none of its weights


def name_owner(model: nn.Module, kind: Any) -> None:
    """Write on each weight whose it is, for a merge takes weights alone."""
    for weight in model.parameters():
        setattr(weight, OWNER, kind)


_Patcher = comfy.model_patcher.ModelPatcher if TYPE_CHECKING else object  # any of the host's kinds


class WatchedPatches(_Patcher):
    """What a patcher does beside the host's own: it keeps in mind a LoRA that changes nothing.

    A node patches a clone of its own, so that each clone knows of one LoRA or merge; the host logs
    the names of what fits no weight and goes on.
    """

    what = ""  # the model, as sentences call it
    fits = misses = False  # of what was added to this one

    def add_patches(self, patches: Any, *args: Any, **kwargs: Any) -> Any:
        changed = super().add_patches(patches, *args, **kwargs)
        self.fits, self.misses = self.fits or bool(changed), self.misses or not changed
        return changed

    def add_hook_patches(
        self, hook: Any, patches: Any, strength_patch: float = 1.0, *args: Any, **kwargs: Any
    ) -> Any:
        """Done as a sampler begins, for the time of its run."""
        changed = super().add_hook_patches(hook, patches, strength_patch, *args, **kwargs)
        if strength_patch and not changed:
            _note_idle(self.what)
        return changed

    def clone(self, *args: Any, **kwargs: Any) -> Any:
        copied = super().clone(*args, **kwargs)
        if self.is_idle():
            copied.set_attachments(IDLE, True)
        return copied

    def is_idle(self) -> bool:
        """Whether a LoRA or a merge on this one or on one before it changes no weight."""
        return IDLE in self.attachments or (self.misses and not self.fits)


@cache
def _watched(kind: type, what: str) -> type:
    return type(kind.__name__, (WatchedPatches, kind), {"what": what})


def watch_patches(patcher: comfy.model_patcher.ModelPatcher, what: str) -> None:
    """Let a patcher and its clones keep in mind a LoRA that changes no weight.

    Args:
        what: the model, as sentences call it.
    """
    patcher.__class__ = _watched(type(patcher), what)


def tell_idle_lora(patcher: comfy.model_patcher.ModelPatcher) -> None:
    """Tell of a LoRA of which the model has no weight, whatever other LoRAs it has."""
    if isinstance(patcher, WatchedPatches) and patcher.is_idle():
        _note_idle(patcher.what)


def _note_idle(what: str) -> None:
    note(
        f"a LoRA or a merge on {what} changes none of its weights: it is for a model of another "
        "kind, or for the CLIP alone; choose one that was trained on this, or take the node out"
    )


def check_storage(dtype: torch.dtype | None, device: torch.device, choice: str) -> None:
    """Refuse to store weights as the device cannot: Apple's GPUs know no fp8.

    Args:
        choice: the node's input, for the sentence.
    Raises:
        LiDiTError: it would end in an error of PyTorch's at the first use.
    """
    if dtype is not None and not comfy.model_management.supports_cast(device, dtype):
        raise LiDiTError(
            f"{choice} is {str(dtype).removeprefix('torch.')}, which {device.type} devices cannot "
            "read; choose bfloat16"
        )


def check_weight_patches(
    patcher: comfy.model_patcher.ModelPatcher,
    what: str,
    check_merged: Callable[[str, Any], None],
) -> None:
    """Look at each weight that was merged, and tell of a LoRA that is for another model.

    Args:
        what: the model, as sentences call it.
        check_merged: takes how shapes differ, "" where they do not, and the other's kind, None
            where nobody knows it.
    """
    misfits, count = [], 0
    for name, (strength, given, kept, offset, _) in _patches(patcher):
        weight = comfy.utils.get_attr(patcher.model, name)
        if not isinstance(weight, Tensor) or (strength == 0 and kept == 1):
            continue
        if offset is not None:
            weight = weight.narrow(*offset)
        shape = tuple(weight.shape)
        if isinstance(given, list):
            other = given[0][0]
            same = tuple(other.shape) == shape
            told = "" if same else f"the shape of {name}, {shape} and {tuple(other.shape)}"
            check_merged(told, getattr(other, OWNER, None))
            continue
        count += 1
        theirs = _shape_of(given, weight)
        if theirs is not None and theirs != shape:
            misfits.append(f"{name} {theirs} instead of {shape}")
    if misfits:
        note(
            f"{len(misfits)} of the {count} weights that a LoRA changes have another shape in "
            f"{what} ({misfits[0]}), and ComfyUI leaves those out: it is for another model; choose "
            "one that was trained on this"
        )


def _patches(patcher: comfy.model_patcher.ModelPatcher) -> Iterator[tuple[str, tuple]]:
    """Each patch of a weight with the weight's name, those of hooks among them."""
    for patches in (patcher.patches, *patcher.hook_patches.values()):
        for name, of_weight in patches.items():
            yield from ((name, patch) for patch in of_weight)


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
