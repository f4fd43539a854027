"""What is asked of a model's weights: merges and LoRAs of such a model, storage the device knows.

The host logs that a tensor has another shape and leaves it out, a merge scaling what it would have
been added to; where all shapes are the same it asks nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch
from torch import Tensor, nn

from ...lidit_core.errors import LiDiTError, shown
from ..node_notes import note
from .lora_log import left_out
from .names import NamedWeights
from .shapes import shape_of
from .sliders import idle_sliders

OWNER = "lidit_owner"  # on a weight: what kind of model it belongs to
MISFITS = "lidit_misfits"  # among a patcher's attachments: sentences on LoRAs that do not fit
DIFFUSION_MODEL = "diffusion_model."  # before the names of its weights
FOR_CLIPS = ("lora_te", "text_encoder", "lora_prior_te")  # before the names of a LoRA's tensors
BYPASS = "bypass_lora"  # what the host calls the injections of a LoRA in bypass mode

IDLE = (
    "a LoRA or a merge on {what} changes none of its weights: it is for a model of another kind, "
    "or for the CLIP alone; choose one that was trained on this, or take the node out"
)
PARTLY = (
    "a LoRA or a merge on {what} changes some of its weights, and {count} tensors more, such as "
    "{first}, fit none and have no effect: it is in part for a model of another kind, or for a "
    "CLIP; choose one that was trained on this"
)
SECOND_BYPASS = (
    "of two LoRAs in bypass mode on {what}, ComfyUI takes the second one in the place of the "
    "first, which has no effect; load one of them with Load LoRA"
)


def name_owner(model: nn.Module, kind: Any) -> None:
    """Write on each weight whose it is, for a merge takes weights alone."""
    for weight in model.parameters():
        setattr(weight, OWNER, kind)


class WatchedPatches(NamedWeights):
    """What a patcher does beside the host's own: it keeps in mind what of a LoRA changes nothing.

    A node patches a clone of its own, so that each clone knows of one LoRA or merge; the host logs
    the names of what fits no weight and goes on.
    """

    what = ""  # the model, as sentences call it
    fits = misses = False  # of what was added to this one
    unfit: tuple[str, ...] = ()  # the names of what fits none of this one's weights

    def add_patches(self, patches: Any, *args: Any, **kwargs: Any) -> Any:
        patches = self.by_own_names(patches)
        if not self.fits and (told := idle_sliders(self._own_names(), self.what)):
            self._keep_in_mind(told)  # a merge adds its weights one by one
        changed = super().add_patches(patches, *args, **kwargs)
        self.fits, self.misses = self.fits or bool(changed), self.misses or not changed
        self.unfit = (*self.unfit, *left_out.take(), *_beside(patches, changed))
        return changed

    def set_injections(self, key: str, injections: list[Any]) -> None:
        """Note whether something of a LoRA in bypass mode fits, which works by injections."""
        if key == BYPASS and self.injections.get(key):
            self._keep_in_mind(SECOND_BYPASS.format(what=self.what))
        super().set_injections(key, injections)
        self.fits = self.fits or key == BYPASS

    def add_hook_patches(
        self, hook: Any, patches: Any, strength_patch: float = 1.0, *args: Any, **kwargs: Any
    ) -> Any:
        """Patch as a sampler begins, for the time of its run, and tell what fits no weight."""
        changed = super().add_hook_patches(hook, patches, strength_patch, *args, **kwargs)
        if strength_patch:
            # tensors for a CLIP are none of these: the same hook takes effect there, too
            unread = [n for n in unread_tensors(hook, patches) if not n.startswith(FOR_CLIPS)]
            unfit = (*unread, *_beside(patches, changed))
            for sentence in _misfits(self.what, bool(changed), not changed, unfit):
                note(sentence)
        return changed

    def clone(self, *args: Any, **kwargs: Any) -> Any:
        copied = super().clone(*args, **kwargs)
        if not isinstance(copied, WatchedPatches):  # one of the host's plainer kinds
            watch_patches(copied, self.what)
        if told := self.misfits():
            copied.set_attachments(MISFITS, told)
        copied.unfit = left_out.take()  # the host reads a LoRA, and then clones what it is for
        return copied

    def misfits(self) -> tuple[str, ...]:
        """What is to be told of LoRAs and merges on this one and on those before it."""
        own = _misfits(self.what, self.fits, self.misses, self.unfit)
        return tuple(dict.fromkeys((*self.attachments.get(MISFITS, ()), *own)))

    def _own_names(self) -> list[str]:
        """The names of the diffusion model's weights, without what stands before all of them."""
        return [name.removeprefix(DIFFUSION_MODEL) for name in self.model.state_dict()]

    def _keep_in_mind(self, sentence: str) -> None:
        self.set_attachments(MISFITS, (*self.attachments.get(MISFITS, ()), sentence))


def _beside(patches: Mapping[Any, Any], changed: Iterable[Any]) -> list[str]:
    """Weights of a diffusion model that patches are for, and that this one does not have."""
    names = {key if isinstance(key, str) else key[0] for key in patches.keys() - set(changed)}
    return sorted(name for name in names if name.startswith(DIFFUSION_MODEL))


def unread_tensors(hook: Any, patches: Mapping[Any, Any]) -> list[str]:
    """The names of a hook's LoRA's tensors that the host read nothing of; it does not log them.

    Args:
        patches: what it read.
    """
    file = getattr(hook, "weights", None)
    if not (getattr(hook, "need_weight_init", False) and file):
        return []
    read = [getattr(patch, "loaded_keys", ()) for patch in patches.values()]
    return sorted(file.keys() - set().union(*read))


def _misfits(what: str, fits: bool, misses: bool, unfit: Sequence[str]) -> list[str]:
    if not fits and (misses or unfit):
        return [IDLE.format(what=what)]
    return [PARTLY.format(what=what, count=len(unfit), first=shown(unfit[0]))] if unfit else []


@cache
def _watched(kind: type, by: type, what: str) -> type:
    return type(kind.__name__, (by, kind), {"what": what})


def watch_patches(
    patcher: comfy.model_patcher.ModelPatcher, what: str, by: type = WatchedPatches
) -> None:
    """Let a patcher and its clones keep in mind what of a LoRA changes no weight.

    Args:
        what: the model, as sentences call it.
        by: the class that does so.
    """
    patcher.__class__ = _watched(type(patcher), by, what)


def tell_misfits(patcher: comfy.model_patcher.ModelPatcher) -> None:
    """Tell of LoRAs of which the model lacks weights, whatever other LoRAs it has."""
    if isinstance(patcher, WatchedPatches):
        for sentence in patcher.misfits():
            note(sentence)


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
        if not isinstance(weight, Tensor) or strength == 0 and (kept == 1 or given == (None,)):
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
        theirs = shape_of(given, weight)
        if theirs is not None and theirs != shape:
            misfits.append(f"{name} {theirs} instead of {shape}")
    if misfits:
        note(
            f"{len(misfits)} of the {count} weights that a LoRA changes have another shape in "
            f"{what} ({misfits[0]}), and ComfyUI leaves those out: it is for another model; choose "
            "one that was trained on this"
        )


def check_bypass(patcher: comfy.model_patcher.ModelPatcher, what: str) -> None:
    """Refuse a LoRA in bypass mode whose parts have the shapes of another model's.

    Args:
        patcher: one that is loaded, as the host puts such a LoRA into the layers then.
        what: the model, as sentences call it.
    Raises:
        LiDiTError: the layer would end in an error of PyTorch's.
    """
    for name, layer in patcher.model.named_modules():
        hook = getattr(vars(layer).get("forward"), "__self__", None)
        theirs = shape_of(getattr(hook, "adapter", None), getattr(layer, "weight", None))
        if theirs is not None and theirs != tuple(layer.weight.shape):
            raise LiDiTError(
                f"a LoRA in bypass mode changes {name} of {what} by {theirs}, and it is "
                f"{tuple(layer.weight.shape)}: the LoRA is for another model; choose one that was "
                "trained on this"
            )


def _patches(patcher: comfy.model_patcher.ModelPatcher) -> Iterator[tuple[str, tuple]]:
    """Each patch of a weight with the weight's name, those of hooks among them."""
    for patches in (patcher.patches, *patcher.hook_patches.values()):
        for name, of_weight in patches.items():
            yield from ((name, patch) for patch in of_weight)
