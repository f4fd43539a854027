"""Calls that a user of the library gets wrong. Run: pytest tests/core/diffusion"""

from __future__ import annotations

import pytest
import torch
from tiny_lidit import random_lidit, random_noise, random_texts

from lidit_core import add_noise, denormalise, normalise, save_picture, to_pixels
from lidit_core.diffusion.sampling import initial_noise, sample
from lidit_core.errors import LiDiTError

NOISE = random_noise(2, 8, 8)
TWO, ONE = random_texts(2, 5, 4), random_texts(2, 5)
T = torch.full((2,), 500.0)
PIXELS = torch.zeros(8, 8, 3, dtype=torch.uint8)
NAN = float("nan")


@pytest.fixture(scope="module")
def model():
    return random_lidit(2)


MISTAKES = {
    "states": (lambda m: sample(m, NOISE, TWO[0], TWO), "expected a dict of LLMStates by branch"),
    "hidden": (lambda m: sample(m, NOISE, TWO[0].hidden, TWO), "a tensor of .* expected a dict"),
    "one negative": (lambda m: sample(m, NOISE, TWO, ONE), r"repeat a row with states\[\[0, 0\]\]"),
    "one positive": (lambda m: sample(m, NOISE, ONE, TWO), r"repeat a row with states\[\[0, 0\]\]"),
    "t a number": (
        lambda m: m(NOISE, 500.0, TWO),
        r"t is 500.0; expected .*torch.full\(\(2,\), t\)",
    ),
    "t of no axis": (lambda m: m(NOISE, T[0], TWO), r"expected a timestep .* for each latent"),
    "guidance": (
        lambda m: sample(m, NOISE, TWO, TWO, 2, NAN),
        "guidance is nan; expected a number",
    ),
    "steps": (
        lambda m: sample(m, NOISE, TWO, TWO, 0),
        "0 steps were asked for; expected 1 or more",
    ),
    "noise": (
        lambda m: sample(m, NOISE * NAN, TWO, TWO, 2),
        "noise holds numbers that are not finite",
    ),
    "seeds": (lambda m: initial_noise("12", 16, 8, 8), "expected a list of whole numbers"),
    "no seed": (lambda m: initial_noise([], 16, 8, 8), r"seeds are \[\]; expected a list"),
    "height": (lambda m: initial_noise([1], 16, 0, 8), "height of the noise is 0; expected a whol"),
    "width": (lambda m: initial_noise([1], 16, 8, 8.0), "width of the noise is 8.0; expected a wh"),
    "prediction": (
        lambda m: add_noise("x0", NOISE, NOISE, T / 1000),
        "prediction is 'x0'; expected flow, eps, v",
    ),
    "time": (lambda m: add_noise("flow", NOISE, NOISE, T[:1]), r"a tensor of \(1,\); expected ten"),
    "other noise": (lambda m: add_noise("flow", NOISE, NOISE[:1], T), r"noise a tensor of \(1, 16"),
    "channels": (
        lambda m: denormalise(NOISE[:, :4], m.config.latent),
        r"a tensor of \(2, 4, 8, 8\); expected a tensor of \(…, 16, height / 8, width / 8\)",
    ),
    "format": (
        lambda m: normalise(NOISE, m.config),
        r"expected a LatentFormat, as model.config",
    ),
    "a list": (lambda m: denormalise(NOISE.tolist(), m.config.latent), "expected a tensor of"),
    "pixels": (lambda m: to_pixels(NOISE), r"\(2, 16, 8, 8\); expected \(B, 3, H, W\)"),
    "floats": (
        lambda m: save_picture("a.png", NOISE[0, 0]),
        r"expected \(H, W, 3\) of torch",
    ),
    "settings": (
        lambda m: save_picture("a.png", PIXELS, {"noise": NOISE}),
        r"not JSON serializable\); expected a dict of what JSON has",
    ),
    "no settings": (lambda m: save_picture("a.png", PIXELS, "a frog"), "expected a dict of what"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_call_is_one_sentence(model, mistake):
    call, sentence = MISTAKES[mistake]
    with pytest.raises(LiDiTError, match=sentence):
        call(model)


def test_latents_of_another_dtype_are_told_and_sampling_takes_them():
    model = random_lidit(2).to(torch.bfloat16)
    with pytest.raises(LiDiTError, match=r"torch.float32 .* give it latents.to\(model.dtype\)"):
        model(NOISE, T, TWO)
    assert sample(model, NOISE, TWO, TWO, 2).isfinite().all()
