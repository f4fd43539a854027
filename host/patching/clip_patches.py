"""LoRAs and merges on a CLIP of ours that change nothing of it, as sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.sd

from ...lidit_core.errors import shown
from ..node_notes import note
from .lora_log import left_out
from .names import NamedWeights
from .patches import FOR_CLIPS, MISFITS, unread_tensors, watch_patches

UNREAD = (
    "{count} tensors of a LoRA are for a checkpoint's text encoder, such as {first}, and change "
    "nothing of {what}; load the LoRA onto the checkpoint's own CLIP, or use LoraLoaderModelOnly"
)
HOOKED = (
    "{count} tensors of a LoRA that Set CLIP Hooks is given are for a checkpoint's text encoder, "
    "such as {first}, and change nothing of {what}; set the hooks on the checkpoint's own CLIP, or "
    "set strength_clip of the LoRA's hook to 0"
)
IDLE = (
    "a merge on {what} changes none of its weights, as the other CLIP is of another kind; merge "
    "it with one of its own kind, or take the node out"
)


class WatchedClipPatches(NamedWeights):
    """What a CLIP's patcher does beside the host's own: it keeps in mind what changes nothing.

    A LoRA that has nothing for text encoders may come through: it is for the MODEL beside it.
    """

    what = ""  # the CLIP, as sentences call it
    merged = misses = False  # whether a merge reached a weight of this one, or looked for another
    unread: tuple[str, ...] = ()  # tensors for text encoders of the LoRA that this one was made for
    strength = 0.0  # of that LoRA
    hooked: tuple[str, ...] = ()  # the same of the hooks that were set on this one

    def add_patches(
        self, patches: Any, strength_patch: float = 1.0, *args: Any, **kwargs: Any
    ) -> Any:
        changed = super().add_patches(patches, strength_patch, *args, **kwargs)
        if _merges(patches):
            self.merged, self.misses = self.merged or bool(changed), self.misses or not changed
        else:
            self.strength = strength_patch
        return changed

    def add_hook_patches(
        self, hook: Any, patches: Any, strength_patch: float = 1.0, *args: Any, **kwargs: Any
    ) -> Any:
        changed = super().add_hook_patches(hook, patches, strength_patch, *args, **kwargs)
        if strength_patch:
            for_clips = [n for n in unread_tensors(hook, patches) if n.startswith(FOR_CLIPS)]
            names = {
                key if isinstance(key, str) else key[0] for key in patches.keys() - set(changed)
            }
            self.hooked = (*self.hooked, *for_clips, *sorted(names))
        return changed

    def clone(self, *args: Any, **kwargs: Any) -> Any:
        copied = super().clone(*args, **kwargs)
        if not isinstance(copied, WatchedClipPatches):  # one of the host's plainer kinds
            watch_patches(copied, self.what, WatchedClipPatches)
        if told := self.misfits():
            copied.set_attachments(MISFITS, told)
        # the host reads a LoRA, and then clones what it is for
        copied.unread = tuple(name for name in left_out.take() if name.startswith(FOR_CLIPS))
        return copied

    def misfits(self) -> tuple[str, ...]:
        """What is to be told of LoRAs and merges on this one and on those before it."""
        told = list(self.attachments.get(MISFITS, ()))
        if self.unread and self.strength:
            first = shown(self.unread[0])
            told.append(UNREAD.format(count=len(self.unread), first=first, what=self.what))
        if self.hooked:
            first = shown(self.hooked[0])
            told.append(HOOKED.format(count=len(self.hooked), first=first, what=self.what))
        if self.misses and not self.merged:
            told.append(IDLE.format(what=self.what))
        return tuple(dict.fromkeys(told))


def schedule_of(clip: Any) -> int:
    """The parts of a sampling for each of which a CLIP of the host encodes by itself; 1 = one.

    Set CLIP Hooks with schedule_clip asks for it, and keyframes say where a part begins.
    """
    hooks = getattr(clip.patcher, "forced_hooks", None)
    if hooks is None or not getattr(clip, "use_clip_schedule", False):
        return 1
    return len(hooks.get_hooks_for_clip_schedule())


def _merges(patches: Mapping[Any, Any]) -> bool:
    """Whether the patches are another model's weights, as the host gives them to a merge."""
    return any(isinstance(given, list) for given in patches.values())


class WatchedClip(comfy.sd.CLIP):
    """The host's CLIP, except that it tells of what changes nothing when it encodes a prompt."""

    def clone(self, *args: Any, **kwargs: Any) -> WatchedClip:
        copied = super().clone(*args, **kwargs)
        copied.__class__ = type(self)
        return copied

    def encode_from_tokens(self, *args: Any, **kwargs: Any) -> Any:
        self._tell_misfits()
        return super().encode_from_tokens(*args, **kwargs)

    def encode_from_tokens_scheduled(self, *args: Any, **kwargs: Any) -> list:
        self._tell_misfits()
        return super().encode_from_tokens_scheduled(*args, **kwargs)

    def _tell_misfits(self) -> None:
        if isinstance(self.patcher, WatchedClipPatches):
            for sentence in self.patcher.misfits():
                note(sentence)
