"""Weights of samples by noise, errors of numbers. Run: pytest tests/train/tasks/test_loss.py"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiny_training import recipe_of

from lidit_core.diffusion.objectives import add_noise, clean_and_noise, coefficients, target
from lidit_core.errors import LiDiTError
from lidit_train.batch import Batch
from lidit_train.recipe import ERRORS, WEIGHTINGS, Loss
from lidit_train.tasks.denoising import denoise
from lidit_train.tasks.task import open_task
from lidit_train.tasks.weighting import deltas, element_errors, sample_weights

OBJECTIVES = ("eps", "v", "flow")
TIMES = torch.tensor([0.001, 0.1, 0.35, 0.5, 0.9, 0.999])


def batch() -> Batch:
    g = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, len(TIMES), 3, 4, 4, generator=g)
    return Batch(x, noise, TIMES, {})


def snr(objective: str) -> torch.Tensor:
    alpha, sigma = coefficients(objective, TIMES.double())
    return (alpha / sigma).square()


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("weighting", ["min-snr", "debiased"])
def test_a_weighting_is_the_same_loss_of_the_implied_picture_whatever_is_predicted(
    objective, weighting
):
    lesson, ratio = batch(), snr(objective)
    z = add_noise(objective, lesson.x, lesson.noise, TIMES)
    wanted = target(objective, lesson.x, lesson.noise, TIMES)
    output = wanted + 0.1 * torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1))
    seen, _ = clean_and_noise(objective, z.double(), output.double(), TIMES.double())
    of_picture = (seen - lesson.x).square().mean((1, 2, 3))
    w = ratio.clamp(max=5.0) if weighting == "min-snr" else ratio.sqrt()
    loss = Loss(weighting=weighting)
    made = denoise(objective, lesson, lambda z, t: output, loss)
    torch.testing.assert_close(made.losses.double(), w * of_picture, rtol=2e-2, atol=1e-6)
    plain = denoise(objective, lesson, lambda z, t: output)
    assert torch.equal(made.errors, plain.errors) and torch.equal(plain.errors, plain.losses)
    assert plain.weights is None


@pytest.mark.parametrize(
    ("objective", "papers"),
    [
        ("eps", (lambda s: (5 / s).clamp(max=1), lambda s: s**-0.5)),
        ("v", (lambda s: s.clamp(max=5) / (s + 1), lambda s: s**0.5 / (s + 1))),
        ("flow", (lambda s: s.clamp(max=5) * TIMES**2, lambda s: TIMES * (1 - TIMES))),
    ],
)
def test_weights_are_those_that_the_documents_name(objective, papers):
    for weighting, of in zip(("min-snr", "debiased"), papers):
        weights = sample_weights(Loss(weighting=weighting), objective, TIMES)
        torch.testing.assert_close(weights, of(snr(objective)).float(), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_weights_are_finite_up_to_pure_noise(objective, weighting):
    times = torch.linspace(0, 1, 1001)[1:]
    weights = sample_weights(Loss(weighting=weighting), objective, times)
    assert weights.isfinite().all() and (weights >= 0).all()


@pytest.mark.parametrize("error", ERRORS)
def test_errors_are_squared_where_small_and_straight_where_large(error):
    loss = Loss(error=error, delta=0.1) if error != "squared" else Loss()
    small, large = torch.full((1, 1, 1, 1), 1e-3), torch.tensor([10.0, 20.0])[:, None, None, None]
    nothing = torch.zeros(1)

    def errors(x):
        return element_errors(loss, "flow", nothing.expand(len(x)), x, torch.zeros_like(x))

    torch.testing.assert_close(errors(small), small.square(), rtol=1e-3, atol=0)
    slope = (errors(large)[1] - errors(large)[0]).item() / 10
    assert slope == pytest.approx(30 if error == "squared" else 0.2, rel=1e-3)


def test_huber_is_twice_torchs_and_the_loss_takes_it():
    lesson, loss = batch(), Loss(error="huber", delta=0.3)
    made = denoise("flow", lesson, lambda z, t: z, loss)
    z = add_noise("flow", lesson.x, lesson.noise, TIMES)
    wanted = target("flow", lesson.x, lesson.noise, TIMES)
    theirs = 2 * F.huber_loss(z, wanted, reduction="none", delta=0.3).mean((1, 2, 3))
    torch.testing.assert_close(made.losses, theirs)
    assert not torch.equal(made.losses, made.errors)


@pytest.mark.parametrize("schedule", ["snr", "exponential"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_scheduled_delta_goes_from_delta_at_noise_to_1_at_the_picture(objective, schedule):
    loss = Loss(error="pseudo-huber", delta=0.1, delta_schedule=schedule)
    times = torch.linspace(0.001, 1, 50)
    found = deltas(loss, objective, times)
    assert (found[1:] < found[:-1]).all()
    # the schedule of eps and v has a trace of noise in its first step, of the picture in its last
    assert found[0] > 0.9 and found[-1] == pytest.approx(0.1, abs=6e-3)


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        ({"weighting": "snr"}, "loss.weighting is 'snr'; expected one of none, min-snr, debiased"),
        ({"gamma": 3}, "gamma=3.0, which is of weighting: min-snr; set that, or leave it out"),
        ({"weighting": "debiased", "gamma": 3}, "which is of weighting: min-snr"),
        ({"delta": 0.5}, "delta=0.5, which is of error: huber and pseudo-huber"),
        ({"error": "huber", "delta": 2, "delta_schedule": "snr"}, "expected delta of 1 at most"),
        ({"error": "huber", "delta": 0}, "delta=0.0; expected 1e-06 to 1e\\+06"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, loss, told):
    with pytest.raises(LiDiTError, match=told):
        recipe_of(tmp_path, loss=loss)


def test_contrast_refuses_huber(tmp_path):
    recipe = recipe_of(tmp_path, contrast={}, loss={"error": "huber"})
    with pytest.raises(LiDiTError, match="contrast is a difference of squared errors"):
        open_task(recipe)
