"""The host's samplers: the latent as they take it, and which do not fit a flow model.

Some do not fit one with its schedule's steps.

What is in pieces and from how many steps on it is whole was seen on the stickers at cfg 3.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import comfy.sample
from torch import Tensor

from ..lidit_core.errors import LiDiTError
from .node_notes import note

# by the function's name: samplers that add noise as if the picture kept its size beside it
FOR_EPS = {
    "sample_ddpm": "ddpm",
    "sample_lcm_upscale": "SamplerLCMUpscale",
    "sample_dpmpp_2s_ancestral_cfg_pp": "dpmpp_2s_ancestral_cfg_pp",
    "sample_res_multistep_ancestral": "res_multistep_ancestral",
    "sample_res_multistep_ancestral_cfg_pp": "res_multistep_ancestral_cfg_pp",
}
# the same for what guidance adds; of the CFG++ samplers, euler's and its ancestral kin are right
GUIDED_FOR_EPS = (
    *("sample_dpmpp_2m_cfg_pp", "sample_res_multistep_cfg_pp"),
    "sample_gradient_estimation_cfg_pp",
)
# of a step over the one before it, onto which rules of several steps go on: nothing goes astray up
# to the first number, and with few steps up to the second
EVEN, GROWN = 1.2, 3.0
NOISE_LEFT = 0.07  # of a flow's picture, which is not seen
# those that take the last sigma above 0 for the end
TO_LAST_SIGMA = ("dpm_fast_function", "dpm_adaptive_function")
FAST, ENOUGH_FAST = "dpm_fast_function", 20  # steps, of which three make one of its rule
# what an empty latent says of the model that it was made for; older hosts do not ask
RATIOS = ("downscale_ratio_spacial", "downscale_ratio_temporal")


def sampled_latent(model: Any, latent: Mapping[str, Any]) -> Tensor:
    """The tensor of a LATENT as the host's samplers draw it: an empty one in the model's form.

    Its channels are the model's, and so is its size, where it says for what ratio it was made.
    """
    fix = comfy.sample.fix_empty_latent_channels
    known = inspect.signature(fix).parameters
    return fix(model, latent["samples"], **{k: latent.get(k) for k in RATIOS if k in known})


def in_sigma(sigmas: Sequence[float]) -> list[float]:
    """The lengths of steps, without one to 0."""
    return [a - b for a, b in pairwise(sigmas) if b > 0]


def in_log_snr(sigmas: Sequence[float]) -> list[float]:
    """The lengths of steps between pure noise and 0 in the logarithm of signal to noise."""
    logs = [math.log((1 - sigma) / sigma) for sigma in sigmas if 0 < sigma < 1]
    return [b - a for a, b in pairwise(logs)]


@dataclass(frozen=True)
class MultistepRule:
    """How many steps a rule that goes on from earlier ones needs to draw whole pictures."""

    order: int
    enough: float  # where the schedule's steps grow a little
    enough_grown: float  # where one grows to more than GROWN; infinity = none are
    lengths: Callable[[Sequence[float]], list[float]] = in_log_snr  # as the rule sees them


OF_TWO, OF_UNIPC = MultistepRule(2, 0, 15), MultistepRule(3, 0, 20)
RULES = {
    **dict.fromkeys(("sample_lms", "sample_ipndm_v"), MultistepRule(4, 20, math.inf, in_sigma)),
    "sample_ipndm": MultistepRule(4, 15, 20, in_sigma),
    "sample_deis": MultistepRule(3, 15, 20, in_sigma),
    "sample_dpmpp_3m_sde": MultistepRule(3, 15, math.inf),
    "sample_dpmpp_2m_sde_heun": MultistepRule(2, 0, 30),
    **dict.fromkeys(("sample_dpmpp_2m", "sample_dpmpp_2m_sde", "sample_res_multistep"), OF_TWO),
    **dict.fromkeys(("sample_unipc", "sample_unipc_bh2"), OF_UNIPC),
}


def check_sampler(function: str, sigmas: Sequence[float]) -> None:
    """Refuse a sampler for eps models, and tell of one that these steps of a flow do not suit."""
    if function in FOR_EPS:
        raise LiDiTError(
            f"the sampler {FOR_EPS[function]} adds noise in the way of eps models, and this LI-DiT "
            "is a flow model, from which it draws noise or burnt colours; choose another, such as "
            "lcm or euler"
        )
    name, steps = _name(function), len(sigmas) - 1
    rule = RULES.get(function.removesuffix("_gpu"))
    if rule is not None:
        _tell_steps(name, rule, sigmas)
    if function == FAST and steps < ENOUGH_FAST:
        note(
            f"the sampler {name} takes {steps} steps, three for one of its rule of order 3, and "
            f"blurs a flow model's pictures with less than {ENOUGH_FAST}; take more, or choose "
            "euler"
        )
    if function in TO_LAST_SIGMA and sigmas[-1] == 0 and sigmas[-2] > NOISE_LEFT:
        note(
            f"the sampler {name} ends at the schedule's last sigma above 0, {sigmas[-2]:.2f}, and "
            "leaves so much noise in the picture; choose the scheduler karras or normal, or the "
            "sampler euler"
        )


def _tell_steps(name: str, rule: MultistepRule, sigmas: Sequence[float]) -> None:
    """Tell of steps that grow, and are too few for it."""
    steps, growth = len(sigmas) - 1, _growth(rule.lengths(sigmas))
    needed = rule.enough_grown if growth > GROWN else rule.enough
    if growth > EVEN and steps < needed:
        fewer, more = f" with less than {needed}", "take more, or "
        if math.isinf(needed):
            fewer = more = ""
        note(
            f"the sampler {name} takes {steps} steps, one of them {growth:.1f} times as long as "
            f"the one before it, and from such its rule of order {rule.order} damages a flow "
            f"model's pictures{fewer}; {more}choose the scheduler karras or the sampler euler"
        )


def _growth(lengths: Sequence[float]) -> float:
    """The largest factor between two steps that follow each other; below 1 where all shrink."""
    return max((b / a for a, b in pairwise(lengths) if a > 0), default=0.0)


def _name(function: str) -> str:
    """A function's name as the host lists its sampler."""
    name = function.removeprefix("sample_").removesuffix("_function")
    return name.replace("unipc", "uni_pc")


def check_guidance(function: str, scale: float) -> None:
    """Refuse a CFG++ sampler for eps models."""
    if function in GUIDED_FOR_EPS and scale > 1:
        raise LiDiTError(
            f"the sampler {function.removeprefix('sample_')} adds guidance in the way of eps "
            "models, and this LI-DiT is a flow model, whose pictures it draws in pieces above cfg "
            f"1, which is {scale:g}; choose euler_cfg_pp, a sampler without cfg_pp, or cfg 1"
        )
