"""A small reference sampler: Euler steps with classifier-free guidance, for use without a host."""

from __future__ import annotations

from typing import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ..errors import check, is_number, is_whole, shown
from ..model.dit import LiDiT, check_latents
from ..model.text_side import TEXT_AS_CONFIGURED, TextOptions
from ..text.states import LLMStates, check_text, stack_states
from .objectives import euler_step, guided, model_timestep
from .times import sampling_times

Text = Mapping[int, LLMStates]
LARGEST_GUIDANCE = 1e6  # beyond it float32 is soon no number


def check_guidance(guidance: float) -> None:
    """Raise unless the guidance is a number that gives a picture: of NaN it would be black."""
    check(
        is_number(guidance) and abs(guidance) <= LARGEST_GUIDANCE,
        f"guidance is {shown(guidance)}; expected a number from {-LARGEST_GUIDANCE:g} to "
        f"{LARGEST_GUIDANCE:g}, 1 = none: give one, or leave it out for the model's own",
    )


def check_steps(steps: int) -> None:
    """Raise unless it is a number of sampling steps."""
    check(
        is_whole(steps) and steps >= 1,
        f"{shown(steps)} steps were asked for; expected 1 or more, a whole number",
    )


def initial_noise(seeds: list[int], channels: int, height: int, width: int) -> Tensor:
    """Noise (B, channels, height, width) float32, each row by its own seed, whatever the batch.

    It is drawn on the CPU, so that it is the same on every device.

    Args:
        channels: of the latents, ``model.config.latent.channels``.
        height, width: of the latents, a picture's 128 pixels being 16.
    Raises:
        LiDiTError: there is no seed, one is no whole number, or a size is below 1.
    """
    check(
        isinstance(seeds, Sequence) and len(seeds) > 0 and all(is_whole(seed) for seed in seeds),
        f"seeds are {shown(seeds)}; expected a list of whole numbers of less than 64 bits",
    )
    for what, size in (("channels", channels), ("height", height), ("width", width)):
        check(
            is_whole(size) and size >= 1,
            f"{what} of the noise is {shown(size)}; expected a whole number, 1 or more: the "
            "latents' sizes, as initial_noise([0], 16, 16, 16) for a picture of 128 pixels",
        )
    shape = (channels, height, width)
    return torch.stack(
        [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )


@torch.no_grad()
def sample(
    model: LiDiT,
    noise: Tensor,
    positive: Text,
    negative: Text,
    steps: int | None = None,
    guidance: float | None = None,
    options: TextOptions = TEXT_AS_CONFIGURED,
    on_step: Callable[[int], None] = lambda step: None,
    begin: float = 1.0,
) -> Tensor:
    """Normalised latents (B, C, H, W) from noise of that shape; texts hold B rows each.

    ``steps`` and ``guidance`` default to what the checkpoint was made for. Guidance 1 does not
    run the negative text at all. Below 1, ``begin`` is the time of what is given in place of
    noise, latents with that much noise added (`normalise`, then `add_noise`); the run's steps
    after that time are left to take. The latents are float32 between the steps and afterwards,
    whatever the model computes in; `denormalise` makes them the autoencoder's.

    Raises:
        LiDiTError: a text that is no dict of states or has other rows, steps, guidance or begin out
            of their ranges, latents of another form or with numbers that are not finite.
    """
    config = model.config
    steps = config.steps if steps is None else steps
    guidance = config.guidance if guidance is None else guidance
    check_steps(steps)
    check_guidance(guidance)
    check(
        is_number(begin) and 0 < begin <= 1,
        f"begin is {shown(begin)}; expected a time above 0 and up to 1, which is noise",
    )
    check_latents(noise, config.latent)
    check(
        bool(noise.isfinite().all()),
        "the noise holds numbers that are not finite; give that of initial_noise, or sound latents",
    )
    texts = {"positive text": positive} | ({"negative text": negative} if guidance != 1 else {})
    for what, text in texts.items():
        check_text(text, len(config.llms), len(noise), what)
    height, width = (side * config.latent.downsampling for side in noise.shape[-2:])
    times = sampling_times(config.prediction, steps, config.shift_at(width, height))
    times = torch.cat([torch.tensor([begin]), times[times < begin]])

    text = positive if guidance == 1 else _together(positive, negative)

    def predict(z: Tensor, t: Tensor) -> Tensor:
        return _predict(model, z.to(model.dtype), t, text, guidance, options)

    return euler_steps(predict, noise, config.prediction, times, on_step)


@torch.no_grad()
def euler_steps(
    predict: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    prediction: str,
    times: Tensor,
    on_step: Callable[[int], None] = lambda step: None,
) -> Tensor:
    """Clean latents from noise (B, C, H, W).

    Args:
        predict: what a model says of z (B, C, H, W) at its timesteps (B,).
        prediction: what that is, see lidit_core.diffusion.objectives.
        times: from 1 down to 0, on the CPU, so that no step waits for the device.
    """
    z, timesteps = noise, model_timestep(prediction, times).to(noise.device)
    for step, (time, following) in enumerate(zip(times[:-1], times[1:])):
        output = predict(z, timesteps[step].expand(len(z)))
        z = euler_step(prediction, z, output, time, following)
        on_step(step + 1)
    return z


def _predict(model, z, t, text: Text, guidance: float, options) -> Tensor:
    """What the model says; with guidance the text is that of both prompts."""
    if guidance == 1:
        return model(z, t, text, options).float()
    output = model(z.repeat(2, 1, 1, 1), t.repeat(2), text, options).float()
    asked, unasked = output.chunk(2)
    return guided(asked, unasked, guidance)


def _together(positive: Text, negative: Text) -> Text:
    """Both texts as one batch; a branch that only one of them has holds no token in the other."""
    pairs = (positive, negative), (negative, positive)
    return {
        i: stack_states([text[i] if i in text else other[i].emptied() for text, other in pairs])
        for i in sorted({*positive, *negative})
    }
