"""A bridge and LLMs as the CLIP of the checkpoint that the bridge was trained for."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import comfy.sd
import torch
from comfy.supported_models_base import ClipTarget

from ...lidit_core.bridge.file import LoadedBridge
from ...lidit_core.errors import check, shown
from ..llm.reader import HostCLIP
from ..patching.clip_patches import WatchedClip, WatchedClipPatches
from ..patching.patches import watch_patches
from .files import Loaded, adds, llms_of, reads_weights, writes_of
from .holder import BridgeHolder, Wiring
from .mixing import OwnEncoder, check_encoder
from .model_reads import check_model
from .readers import assigned, check_one_entry, tell_source
from .tokens import BridgeText


def bridged_clip(
    loaded: Any,
    clips: Sequence[HostCLIP],
    encoder: Any = None,
    strength: float = 1.0,
    model: Any = None,
) -> comfy.sd.CLIP:
    """A CLIP that writes the conditioning of the bridge's target by what LLMs make of a prompt.

    Args:
        clips: of LLMs, one for each that the bridge reads, in any order.
        encoder: the checkpoint's own CLIP; None = none.
        strength: 1 = the bridge's conditioning, or all that it adds; 0 = the encoder's own, bit
            for bit.
        model: the MODEL that is to draw, which is looked at alone; None = it is not known.
    Raises:
        LiDiTError: an LLM, the encoder or the model is not one that the bridge goes with.
    """
    check(
        isinstance(loaded, Loaded),
        f"bridge is {shown(loaded)}; expected the output of LI-DiT Bridge Loader",
    )
    if model is not None:
        check_model(loaded, model)
    check(0 <= strength <= 1, f"strength is {strength:g}; expected 0 to 1")
    check(
        strength == 1 or encoder is not None,
        f"strength is {strength:g} and no encoder is connected to mix with; connect the "
        "checkpoint's own CLIP as encoder, or set strength to 1",
    )
    check(
        encoder is not None or not adds(loaded),
        f"this bridge adds to what {writes_of(loaded).name} writes, and no encoder is connected;"
        " connect the checkpoint's own CLIP as encoder",
    )
    found = assigned(llms_of(loaded), clips, by_name=isinstance(loaded, LoadedBridge))
    if not isinstance(loaded, LoadedBridge):
        tell_source(loaded, found)
    own = None if encoder is None else OwnEncoder(encoder)
    if own is not None and (strength < 1 or adds(loaded)):
        check_one_entry(encoder, "the encoder")
    if own is not None and strength > 0:  # also where the bridge alone is read
        check_encoder(loaded, own)
    return _clip(Wiring(loaded, found, own, strength))


class BridgeClip(WatchedClip):
    """The host's CLIP of a bridge, of which no hook changes a weight."""

    def encode_from_tokens_scheduled(self, *args: Any, **kwargs: Any) -> list:
        """Encode once where hooks have a schedule: the host would drop all but two tensors."""
        scheduled, self.use_clip_schedule = self.use_clip_schedule, False
        try:
            return super().encode_from_tokens_scheduled(*args, **kwargs)
        finally:
            self.use_clip_schedule = scheduled


def _clip(wiring: Wiring) -> comfy.sd.CLIP:
    known = inspect.signature(comfy.sd.CLIP).parameters  # older hosts have no dynamic patcher
    target = ClipTarget(BridgeText, lambda **_: BridgeHolder(wiring))
    clip = BridgeClip(
        target,
        model_options={"dtype": torch.float32},
        **{key: True for key in ("disable_dynamic",) if key in known},
    )
    clip.patcher.force_cast_weights = False
    watch_patches(clip.patcher, "this bridge", WatchedClipPatches)
    return clip


def describe_clip(loaded: Loaded, strength: float) -> str:
    """What a user is told of the CLIP of a bridge."""
    names = " and ".join(llm.name for llm in llms_of(loaded))
    weights = "weights such as (word:1.3) are read" if reads_weights(loaded) else "all is text"
    if adds(loaded):
        return f"{names} reads and adds to the checkpoint's own, {strength:.0%} of it; {weights}"
    mixed = "" if strength == 1 else f", {strength:.0%} of it beside the checkpoint's own"
    return f"{names} reads{mixed}; {weights}"
