"""Objectives and the reference sampler. Run: pytest tests/core/diffusion/test_objectives.py"""

from __future__ import annotations

import pytest
import torch
from tiny_lidit import random_lidit as tiny
from tiny_lidit import random_texts as texts

from lidit_core.diffusion.objectives import (
    add_noise,
    clean_and_noise,
    coefficients,
    model_timestep,
    target,
)
from lidit_core.diffusion.sampling import initial_noise, sample
from lidit_core.diffusion.times import Focus, sample_time, sampling_times, shift_time
from lidit_core.model.config import GATES, PREDICTIONS, RefinerConfig

TIMES = torch.tensor([0.02, 0.3, 0.7, 1.0])


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(4, 2, 3, 3, generator=g), torch.randn(4, 2, 3, 3, generator=g)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_target_gives_back_picture_and_noise(prediction):
    x, noise = pair()
    z = add_noise(prediction, x, noise, TIMES)
    clean, found = clean_and_noise(prediction, z, target(prediction, x, noise, TIMES), TIMES)
    assert torch.allclose(clean, x, atol=1e-4)
    assert torch.allclose(found, noise, atol=1e-4)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_noise_grows_with_time(prediction):
    alpha, sigma = coefficients(prediction, TIMES)
    assert (alpha.diff() < 0).all() and (sigma.diff() > 0).all()
    assert sigma[-1] > 0.99


def test_eps_and_v_keep_the_variance():
    for prediction in ("eps", "v"):
        alpha, sigma = coefficients(prediction, TIMES)
        assert torch.allclose(alpha**2 + sigma**2, torch.ones(4))


def test_the_betas_are_stable_diffusions():
    alpha, sigma = coefficients("eps", torch.tensor([1.0, 1 / 1000]))
    assert torch.allclose(sigma / alpha, torch.tensor([14.6146, 0.0292]), rtol=2e-3)


def test_timesteps_are_those_a_host_gives():
    assert model_timestep("flow", torch.tensor(1.0)) == 1000
    assert model_timestep("eps", torch.tensor(1.0)) == 999
    assert model_timestep("eps", torch.tensor(0.001)).abs() < 1e-3


def test_time_zero_is_the_first_index_of_the_schedule():
    first = coefficients("eps", torch.tensor([0.001]))
    assert torch.allclose(torch.cat(coefficients("eps", torch.zeros(1))), torch.cat(first))
    assert model_timestep("v", torch.zeros(1)) == 0


def test_training_times():
    g = torch.Generator().manual_seed(0)
    flow = sample_time("flow", 20_000, 1.0, g)
    assert 0 < flow.min() and flow.max() < 1 and abs(flow.mean() - 0.5) < 0.01
    assert abs(flow.logit().std() - 1) < 0.02  # logit-normal
    assert sample_time("flow", 20_000, 3.0, g).mean() > 0.65
    eps = sample_time("eps", 20_000, 1.0, g)
    assert eps.min() > 0 and eps.max() <= 1 and abs(eps.mean() - 0.5) < 0.01


# Drawn by the version that had no focus: seed 7, six times each.
UNFOCUSED = {
    ("flow", 1.0): [0.46336699, 0.68700218, 0.72047555, 0.24706192, 0.84432811, 0.29011452],
    ("flow", 3.0): [0.72148049, 0.86815619, 0.88548541, 0.49606717, 0.94210041, 0.55077052],
    ("eps", 1.0): [0.616, 0.893, 0.722, 0.287, 0.284, 0.348],
    ("v", 2.0): [0.763, 0.944, 0.839, 0.446, 0.443, 0.517],
}


@pytest.mark.parametrize(("prediction", "shift"), UNFOCUSED)
def test_times_without_a_focus_are_what_they_were(prediction, shift):
    g = torch.Generator().manual_seed(7)
    times = sample_time(prediction, 6, shift, g)
    assert torch.equal(times, torch.tensor(UNFOCUSED[prediction, shift]))
    after = torch.rand((), generator=g)  # nothing more was drawn
    g.manual_seed(7)
    torch.randn(6, generator=g) if prediction == "flow" else torch.randint(9, (6,), generator=g)
    assert torch.equal(after, torch.rand((), generator=g))


@pytest.mark.parametrize("prediction", ["flow", "eps", "v"])
@pytest.mark.parametrize(("low", "high"), [(0.6, 0.9), (0.0, 0.3), (0.7, 1.0), (0.29, 0.57)])
def test_a_focus_draws_its_share_of_the_times_uniformly_in_its_range(prediction, low, high):
    count, focus = 20_000, Focus(low, high, 0.5)
    plain = sample_time(prediction, count, 2.0, torch.Generator().manual_seed(0))
    times = sample_time(prediction, count, 2.0, torch.Generator().manual_seed(0), focus)
    drawn = times[times != plain]  # a few of eps and v are drawn as they were
    assert 0.49 < len(drawn) / count < 0.51
    inside = (drawn.double() > low - 1e-7) & (drawn.double() <= high + 1e-7)
    assert bool(inside.all()) and drawn.min() > 0
    quarters = torch.histc(drawn, 4, low, high) / len(drawn)
    assert (quarters - 0.25).abs().max() < 0.02
    if prediction != "flow":
        assert torch.allclose(times * 1000, (times * 1000).round(), atol=1e-3)
    every = sample_time(prediction, 500, 2.0, torch.Generator(), Focus(low, high, 1.0))
    assert every.min() > low and every.max() <= high + 1e-7
    none = sample_time(
        prediction, count, 2.0, torch.Generator().manual_seed(0), Focus(low, high, 0)
    )
    assert torch.equal(none, plain)


def test_shifted_times_of_eps_and_v_are_steps_of_the_schedule():
    shifted = sample_time("v", 20_000, 2.0, torch.Generator().manual_seed(0))
    plain = sample_time("v", 20_000, 1.0, torch.Generator().manual_seed(0))
    assert (shifted - shift_time(plain, 2.0)).min() > -1e-6
    assert (shifted - shift_time(plain, 2.0)).max() < 1e-3
    assert torch.allclose(shifted * 1000, (shifted * 1000).round(), atol=1e-3)
    assert shifted.min() > 0 and shifted.max() <= 1


def test_sampling_times_fall_from_one_to_zero():
    assert sampling_times("flow", 4, 1.0).tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert torch.allclose(shift_time(torch.tensor(0.5), 3.0), torch.tensor(0.75))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_perfect_model_is_sampled_to_its_picture(prediction):
    """An oracle that knows the one picture of its world leads every noise there."""
    world = torch.full((1, 16, 4, 4), 0.7)

    class Oracle:
        dtype = torch.float32
        config = tiny().config.__class__(**{**vars(tiny().config), "prediction": prediction})

        def __call__(self, z, t, text, options):
            time = (t / 1000 if prediction == "flow" else (t + 1) / 1000).clamp(max=1)
            alpha, sigma = (v[:, None, None, None] for v in coefficients(prediction, time))
            noise = (z - alpha * world) / sigma
            return target(prediction, world.expand_as(z), noise, time)

    noise = initial_noise([1, 2], 16, 4, 4)
    text = texts(1, 6, 6)
    out = sample(Oracle(), noise, text, text, steps=7, guidance=1.0)
    assert (out - world).abs().max() < 1e-3


def test_guidance_one_never_runs_the_negative():
    model, noise = tiny(1), initial_noise([5], 16, 4, 4)
    text, other = texts(1), texts(1, 9)
    without = sample(model, noise, text, {}, steps=2, guidance=1.0)
    assert torch.equal(without, sample(model, noise, text, other, steps=2, guidance=1.0))
    assert not torch.allclose(without, sample(model, noise, text, other, steps=2, guidance=3.0))
    same = sample(model, noise, text, text, steps=2, guidance=3.0)
    assert torch.allclose(without, same, atol=1e-4)


@pytest.mark.parametrize("gates", GATES)
def test_gates_with_and_without_time_are_guided_alike(gates):
    """A step at guidance 3 is three times as far from the negative's as one at guidance 1."""
    model, noise = tiny(1, refiner=RefinerConfig(gates=gates)), initial_noise([5], 16, 4, 4)
    text, other = texts(1), texts(1, 9)
    negative = sample(model, noise, other, {}, steps=1, guidance=1.0)
    one = sample(model, noise, text, {}, steps=1, guidance=1.0)
    three = sample(model, noise, text, other, steps=1, guidance=3.0)
    assert torch.isfinite(three).all() and not torch.allclose(one, negative)
    torch.testing.assert_close(three, negative + 3 * (one - negative), rtol=1e-4, atol=1e-4)


def test_a_bfloat16_model_is_sampled_in_float32():
    model, noise, text = tiny(), initial_noise([5], 16, 4, 4), texts()
    exact = sample(model, noise, text, text, steps=2)
    rounded = sample(model.to(torch.bfloat16), noise, text, text, steps=2)
    assert rounded.dtype == torch.float32
    assert (exact - rounded).abs().max() < 0.1 * exact.abs().max()


def test_a_branch_that_only_one_text_has_is_empty_in_the_other():
    model, noise, text = tiny(), initial_noise([5], 16, 4, 4), texts()
    without = sample(model, noise, text, {0: text[0]}, steps=2, guidance=2.0)
    emptied = sample(model, noise, text, {0: text[0], 1: text[1].emptied()}, steps=2, guidance=2.0)
    assert torch.equal(without, emptied)
    swapped = sample(model, noise, {0: text[0]}, text, steps=2, guidance=2.0)
    assert not torch.allclose(without, swapped)


def test_each_picture_has_its_own_noise():
    together = initial_noise([3, 4], 16, 4, 4)
    assert torch.equal(together[1:], initial_noise([4], 16, 4, 4))
    model, text = tiny(), texts(2, 6, 6)
    both = sample(model, together, text, text, steps=2)
    alone = {i: s[1:] for i, s in text.items()}
    assert (both[1:] - sample(model, together[1:], alone, alone, steps=2)).abs().max() < 1e-4
