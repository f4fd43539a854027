"""What a sampler is about to do with a LI-DiT, before its first step: errors and notes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import comfy.model_patcher
import comfy.model_sampling as host
import torch
from torch import Tensor

from ...lidit_core.diffusion.size import note_of_size
from ...lidit_core.errors import LiDiTError
from ...lidit_core.model.config import LiDiTConfig
from ..keys import TEXT
from ..node_notes import note
from ..other_vaes import tell_other_vae
from ..samplers import check_guidance, check_sampler
from .merges import check_second
from .schedule import check_noise_level
from .shift import tell_other_shift

CHECKS_KEY = "lidit_sampling_checks"
FROM_NOISE = 0.9  # share of noise: below it, what the latent holds shows in the picture
ALL_NOISE = 0.9999  # above it, a flow's latent is not in what the sampler begins with
# what limits an entry of a prompt to steps or places
LIMITS = {"timestep_start", "timestep_end", "area", "mask"}


def checked_sampling(
    executor: Any,
    guider: Any,
    sigmas: Tensor,
    extra_args: dict,
    callback: Any,
    noise: Tensor,
    latent_image: Tensor | None = None,
    *rest: Any,
) -> Tensor:
    """The host's wrapper around a sampler's run.

    Only a KSAMPLER is known to read sigmas as noise levels: the host's trainer, which is a sampler
    too, numbers its pictures by them.

    Raises:
        LiDiTError: what the sampler would draw is noise.
    """
    model = guider.inner_model
    schedule, config = model.model_sampling, model.model_config.config
    tell_uncovered(guider.conds, sigmas, noise.shape, strongest_guidance(guider) > 1)
    check_latent(latent_image)
    for other in other_models(guider):
        check_second(config, other)
    check_windows(guider.conds, extra_args.get("model_options", {}), len(noise))
    sampler = executor.class_obj
    function = getattr(sampler, "sampler_function", None)
    if function is not None and len(sigmas) > 1:
        levels, is_flow = sigmas.tolist(), isinstance(schedule, host.CONST)
        first = levels[0]
        if is_flow:
            name = getattr(function, "__name__", "")
            check_guidance(name, strongest_guidance(guider))
            check_noise_level(max(levels))
            check_sampler(name, levels)
            tell_noise_scale(getattr(schedule, "noise_scale", 1.0))
        share = first if is_flow else first / (1 + first)
        adds_noise = bool(noise.any())
        check_start(first, share, adds_noise, latent_image)
        if adds_noise and share >= FROM_NOISE:
            tell_far_size(config, noise.shape)
        keeps_parts = bool(rest) and rest[0] is not None  # by a mask
        tell_other_vae(config.latent.name, share < FROM_NOISE or keeps_parts)
        if is_flow and schedule is model.own_sampling[0]:
            tell_other_shift(config, schedule.shift, noise)
        model.levels_known = is_flow and keeps_to_its_sigmas(sampler)
    try:
        return executor(guider, sigmas, extra_args, callback, noise, latent_image, *rest)
    finally:
        model.levels_known = False


def other_models(guider: Any) -> list[comfy.model_patcher.ModelPatcher]:
    """The models beside its first that a guider draws with, as DualModelGuider does."""
    found = [v for v in vars(guider).values() if isinstance(v, comfy.model_patcher.ModelPatcher)]
    return [other for other in found if other is not guider.model_patcher]


def keeps_to_its_sigmas(sampler: Any) -> bool:
    """Whether a KSAMPLER is one of the host's, which go above the first sigma by churn alone."""
    ours = sampler.sampler_function.__module__.startswith("comfy.")
    return ours and not sampler.extra_options.get("s_churn")


def strongest_guidance(guider: Any) -> float:
    """The largest scale of a guider, which may have several: DualCFGGuider's are cfg1 and cfg2."""
    scales = [value for name, value in vars(guider).items() if "cfg" in name]
    return max((float(s) for s in scales if isinstance(s, (int, float))), default=1.0)


def tell_noise_scale(scale: float) -> None:
    """Tell of noise that a node makes stronger or weaker than every LI-DiT was trained with."""
    if scale != 1:
        note(
            f"a node scales the noise by {scale:g}, and LI-DiTs are trained with noise as it is, "
            "so that the picture comes out in pieces; set noise_scale of ModelNoiseScale to 1, or "
            "take that node out"
        )


def check_windows(conds: Mapping[str, Sequence[dict]], options: Mapping, batch: int) -> None:
    """Refuse windows over a batch whose pictures have prompts of their own.

    The host cuts tensors to the pictures of a window, and an LLM's states are none to it.
    """
    handler = options.get("context_handler")
    if handler is None or handler.dim != 0 or handler.context_length >= batch:
        return
    texts = [entry["model_conds"].get(TEXT) for entries in conds.values() for entry in entries]
    rows = max((len(text.cond) for text in texts if text is not None), default=1)
    if rows > 1:
        raise LiDiTError(
            f"the model draws a batch of {batch} in windows of {handler.context_length}, and a "
            f"conditioning holds {rows} prompts, one for a picture, which no window follows; take "
            "the context windows out, or give the batch one prompt"
        )


def tell_uncovered(
    conds: Mapping[str, Sequence[dict]], sigmas: Tensor, shape: Sequence[int], guided: bool
) -> None:
    """Tell of steps or places of the picture to which no entry of a prompt applies.

    The host takes the model's prediction for 0 there, and what is drawn is in pieces.

    Args:
        shape: of the noise.
        guided: prompts beside the positive one count, too.
    """
    if len(shape) != 4:  # no picture's: the model refuses it
        return
    for name, entries in conds.items():
        if not entries or any("default" in entry for entry in entries):
            continue
        if name != "positive" and not guided:
            continue
        if any(LIMITS.isdisjoint(entry) for entry in entries):
            continue
        told = _uncovered(entries, sigmas[:-1].tolist(), shape)
        if told:
            note(
                f"no entry of the {name} prompt holds {told}, so that nothing is drawn there that "
                "fits the rest; combine it (ConditioningCombine) with a prompt that holds there, "
                "or take out the node that sets its range, area or mask"
            )


def _uncovered(entries: Sequence[dict], sigmas: Sequence[float], shape: Sequence[int]) -> str:
    """The steps or places where no entry holds; "" where one does everywhere."""
    for step, sigma in enumerate(sigmas):
        there = [entry for entry in entries if _holds_at(entry, sigma)]
        if not there:
            return f"at step {step + 1} of {len(sigmas)}"
        covered = torch.zeros(shape[-2:], dtype=torch.bool)
        for entry in there:
            _cover(covered, entry)
            if covered.all():
                break
        if not covered.all():
            return f"in {1 - float(covered.float().mean()):.0%} of the picture"
    return ""


def _holds_at(entry: Mapping[str, Any], sigma: float) -> bool:
    first, last = entry.get("timestep_start", math.inf), entry.get("timestep_end", -math.inf)
    return float(last) <= sigma <= float(first)


def _cover(covered: Tensor, entry: Mapping[str, Any]) -> None:
    """Mark where an entry holds. covered: (rows, columns)"""
    rows, columns, y, x = _area(entry, covered.shape)
    place = (slice(y, y + rows), slice(x, x + columns))
    mask = entry.get("mask")
    if mask is None:
        covered[place] = True
    else:
        covered[place] |= mask.reshape(-1, *covered.shape).amax(0)[place].cpu() > 0


def _area(entry: Mapping[str, Any], size: Sequence[int]) -> tuple[int, int, int, int]:
    """Rows, columns and where they begin; nodes for films set a third number of each."""
    area = tuple(entry.get("area") or (*size, 0, 0))
    half = len(area) // 2
    (rows, columns), (y, x) = area[half - 2 : half], area[-2:]
    return rows, columns, y, x


def check_latent(latent: Tensor | None) -> None:
    """Refuse a latent to start from that is broken before a step is drawn.

    Raises:
        LiDiTError: the sampler would end with nothing else.
    """
    if latent is not None and (strange := int((~latent.isfinite()).sum())):
        raise LiDiTError(
            f"the latent that the sampler is given has {strange} of {latent.numel()} numbers that "
            "are not finite; VAE Encode (Tiled) makes such where its overlap is not smaller than "
            "its tile_size, and an earlier sampler may: make the latent anew"
        )


def tell_far_size(config: LiDiTConfig, shape: Sequence[int]) -> None:
    """Tell of a picture that is drawn far from the size that the model was trained at.

    Args:
        shape: of the noise.
    """
    if len(shape) == 4:  # no picture's otherwise: the model refuses it
        height, width = (side * config.latent.downsampling for side in shape[-2:])
        if told := note_of_size(width, height, config):
            note(told)


def check_start(sigma: float, share: float, adds_noise: bool, latent_image: Tensor | None) -> None:
    """Tell of a latent that is no place to start from with so little noise, or none.

    Args:
        share: of noise in what the sampler begins with, 0 to 1.
    """
    is_empty = latent_image is None or not bool(latent_image.any())
    if not adds_noise:
        if is_empty:
            note(
                "the sampler is given an empty latent and no noise, of which it draws a plain "
                "area; connect noise, or the latent of an earlier sampler"
            )
        elif share > ALL_NOISE:
            note(
                f"the schedule begins at sigma {sigma:.2f}, where nothing of the latent is left, "
                "and no noise is added, so that it is drawn from nothing; add noise, or begin at a "
                "later step (Add Noise before a flow model's sampler does not do)"
            )
    elif is_empty and share < FROM_NOISE:
        note(
            f"the schedule begins at sigma {sigma:.2f} with an empty latent, where this model "
            "expects a picture with noise; set denoise to 1 or begin nearer to pure noise, or "
            "encode a picture"
        )
