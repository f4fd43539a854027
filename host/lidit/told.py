"""What users are told of a LI-DiT: its LLMs, and which of them read a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import comfy.model_patcher

from ...lidit_core.model.config import LiDiTConfig
from ...lidit_core.model.prompt_text import BranchText
from ..keys import HostEntry
from ..node_notes import note
from .branches import branch_of
from .conditioning import text_of

PICTURES = ("reference_latents", "unclip_conditioning", "clip_vision_output", "concat_latent_image")
# what ComfyUI's nodes write beside those for models of other kinds: numbers, films, sound
FOR_OTHERS = (
    *("guidance", "noise_augmentation", "degrade_sigma", "lq_latent", "frame_rate", "fps"),
    *("reference_latents_method", "reference_latents_text_embeds", "concat_mask_index"),
    *("clip_vision_outputs", "clip_vision_output_ref", "camera_conditions", "context_latents"),
    *("control_video", "face_video_pixels", "pose_video_latent", "keyframe_idxs"),
    *("guide_attention_entries", "time_dim_concat", "time_dim_replace", "minimax_keyframes"),
    *("minimax_refs", "reference_motion", "reference_strength", "ref_mask_28ch", "ref_mask_flag"),
    *("driving_mask_28ch", "vace_frames", "vace_mask", "vace_strength", "audio_embed"),
    *("audio_inject_scale", "ref_audio", "reference_audio_timbre_latents", "lyrics_strength"),
    *("seconds_start", "seconds_total"),
)


def tell_unread(values: Mapping[str, Any]) -> None:
    """Tell of pictures, masks and more among a conditioning's values that other models read.

    Args:
        values: an entry's, and whether the latent has a mask: `denoise_mask`.
    """
    mask = values.get("concat_mask")
    if mask is not None and values.get("denoise_mask") is None:
        note(
            "the mask of InpaintModelConditioning is read by inpainting models alone; switch on "
            "its noise_mask, so that the rest of the picture stays as it is"
        )
    found = [name for name in PICTURES if values.get(name) is not None]
    if mask is None and found:
        note(
            f"this conditioning holds a picture ({', '.join(found)}), and a LI-DiT reads the "
            "prompt alone; to start from a picture, encode it with the VAE as the sampler's "
            "latent, with denoise below 1"
        )
    others = [name for name in FOR_OTHERS if values.get(name) is not None]
    if others and not found and mask is None:
        note(
            f"this conditioning holds {', '.join(others)}, which models of other kinds read and a "
            "LI-DiT does not; take out the node that sets it (for FluxGuidance use the sampler's "
            "cfg)"
        )


def describe_before(path: Path) -> str:
    """The size of a checkpoint's file, before it is loaded."""
    return f"loading {path.name}, {path.stat().st_size / 1e6:,.0f} MB"


def describe_model(patcher: comfy.model_patcher.ModelPatcher, config: LiDiTConfig) -> str:
    """A LI-DiT's size in memory, and its branches."""
    branches = ", ".join(f"{i} {spec.name}" for i, spec in enumerate(config.llms, start=1))
    return f"{patcher.model_size() / 1e6:,.0f} MB of weights\nbranches: {branches}"


def describe_prompts(
    positive: Sequence[HostEntry], negative: Sequence[HostEntry], config: LiDiTConfig
) -> str:
    """The LLMs that read each prompt of a sampling, how many tokens, and which are left out."""
    lines = [*_lines("positive", positive, config), *_lines("negative", negative, config)]
    return "\n".join(dict.fromkeys(lines))


def describe_fused(entries: Sequence[HostEntry]) -> str:
    """The LLMs that a conditioning holds, and those that a weight of 0 leaves out."""
    lines = []
    for entry in entries:
        branches = text_of(*entry).branches
        taken, left_out = _split(branches)
        lines.append(_sentence("reads", taken, [b.llm for b in left_out]))
    return "\n".join(dict.fromkeys(lines))


def _lines(kind: str, entries: Sequence[HostEntry], config: LiDiTConfig) -> list[str]:
    lines = []
    for entry in entries:
        taken, _ = _split(text_of(*entry).branches)
        places = {branch_of(read, config) for read in taken}
        left_out = [spec.name for i, spec in enumerate(config.llms) if i not in places]
        lines.append(_sentence(f"{kind} prompt, read by", taken, left_out))
    return lines


def _split(branches: Sequence[BranchText]) -> tuple[list[BranchText], list[BranchText]]:
    """The branches that take part, and those that a weight of 0 leaves out."""
    return [b for b in branches if b.options.weight], [b for b in branches if not b.options.weight]


def _sentence(begin: str, taken: Sequence[BranchText], left_out: Sequence[str]) -> str:
    by = ", ".join(f"{b.llm} ({b.used} tokens)" if b.used else b.llm for b in taken) or "none"
    return f"{begin}: {by}" + (f"; left out: {', '.join(left_out)}" if left_out else "")
