"""Flow's shift by the size of the picture. Run: pytest tests/core/model/test_shift.py"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from tiny_lidit import lidit_config, random_lidit, random_noise, random_texts

from lidit_core.diffusion.sampling import sample
from lidit_core.errors import LiDiTError
from lidit_core.model.config import LiDiTConfig
from lidit_core.model.dit import LiDiT
from lidit_core.model.shift import ShiftAt, interpolated_shift

TWO = (ShiftAt(256, 1.5), ShiftAt(1024, 3.0))


def test_between_two_sizes_its_logarithm_is_a_line_in_that_of_the_pixels():
    assert interpolated_shift(TWO, 256, 256) == pytest.approx(1.5)
    assert interpolated_shift(TWO, 1024, 1024) == pytest.approx(3.0)
    assert interpolated_shift(TWO, 512, 512) == pytest.approx((1.5 * 3.0) ** 0.5)
    assert interpolated_shift(TWO, 256, 1024) == interpolated_shift(TWO, 1024, 256)
    assert interpolated_shift(TWO, 256, 1024) == pytest.approx(interpolated_shift(TWO, 512, 512))
    assert interpolated_shift(TWO[::-1], 700, 300) == pytest.approx(
        interpolated_shift(TWO, 700, 300)
    )
    law = (ShiftAt(256, 1.0), ShiftAt(1024, 4.0))  # of SD3: the root of the ratio of pixels
    assert interpolated_shift(law, 2048, 2048) == pytest.approx(8.0)


def test_a_picture_is_sampled_with_the_shift_of_its_size():
    shifts = (ShiftAt(32, 1.5), ShiftAt(128, 6.0))
    model = random_lidit(1, shifts=shifts)
    text = random_texts(1)
    for height, width in ((4, 4), (8, 4), (16, 16)):
        noise = random_noise(1, height, width)
        drawn = sample(model, noise, text, text, steps=3)
        pixels = 8 * width, 8 * height
        shift = interpolated_shift(shifts, *pixels)
        plain = LiDiT(replace(model.config, shifts=(), shift=shift))
        plain.load_state_dict(model.state_dict())
        assert torch.equal(drawn, sample(plain, noise, text, text, steps=3))
        other = LiDiT(replace(model.config, shifts=(), shift=1.1 * shift))
        other.load_state_dict(model.state_dict())
        assert not torch.equal(drawn, sample(other, noise, text, text, steps=3))


def test_a_configuration_says_them_where_it_has_them():
    plain = lidit_config("a")
    assert "shifts" not in json.loads(plain.to_json())
    config = replace(plain, shifts=TWO)
    assert LiDiTConfig.from_json(config.to_json()) == config
    assert LiDiTConfig.from_json(plain.to_json()) == plain
    assert config.shift_at(512, 512) != plain.shift_at(512, 512) == plain.shift


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"shifts": TWO[:1]}, r"shifts at the sizes \[256\]; expected two sizes that differ"),
        ({"shifts": TWO[:1] * 2}, r"shifts at the sizes \[256, 256\]"),
        ({"shifts": TWO, "prediction": "eps"}, "shifts and predicts eps; they are of flow's"),
    ],
)
def test_shifts_that_say_nothing_are_refused(changes, told):
    with pytest.raises(LiDiTError, match=told):
        replace(lidit_config("a"), **changes)


def test_a_shift_above_0_is_expected():
    for size, shift in ((0, 1.0), (256, 0.0), (256, -1.0)):
        with pytest.raises(LiDiTError, match="expected more than 0"):
            ShiftAt(size, shift)
