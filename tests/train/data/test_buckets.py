"""Shapes of one area. Run: pytest tests/train/data/test_buckets.py"""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lidit_train.data.buckets import bucket_sizes, fit, nearest_bucket
from lidit_train.recipe import Buckets


@pytest.mark.parametrize("resolution", (32, 48, 64, 224, 256, 500, 512, 1024))
@pytest.mark.parametrize("grain", (8, 16, 32))
@pytest.mark.parametrize("longest", (1.0, 1.5, 2.0, 4.0))
def test_buckets_are_of_the_grain_the_area_and_the_aspect(resolution, grain, longest):
    sizes = bucket_sizes(resolution, grain, Buckets(longest=longest))
    square = round(resolution / grain) * grain
    step = max(grain, min(64, resolution // 4) // grain * grain)
    assert (square, square) in sizes and len(set(sizes)) == len(sizes)
    assert {(h, w) for w, h in sizes} == set(sizes)
    for w, h in sizes:
        assert w % grain == h % grain == 0 and min(w, h) > 0
        assert max(w, h) <= longest * min(w, h)
        assert abs(min(w, h) - square**2 / max(w, h)) <= step / 2  # no nearer one on the grid
    assert [w / h for w, h in sizes] == sorted(w / h for w, h in sizes)
    assert longest > 1 or sizes == [(square, square)]


def test_the_usual_buckets():
    sizes = bucket_sizes(512, 16, Buckets())
    wide = [(512, 512), (576, 448), (640, 384), (704, 384)]
    assert [s for s in sizes if s[0] >= s[1]] == wide
    # a step that is more than a quarter of the side would leave the square alone
    assert bucket_sizes(64, 8, Buckets())[-1] == (96, 48)
    assert bucket_sizes(512, 16, Buckets(step=100))[-1] == (704, 416)  # 96 = 6 grains


def test_nearest_is_by_the_logarithm_of_the_aspect():
    buckets = bucket_sizes(512, 16, Buckets())
    sizes = np.random.default_rng(0).integers(1, 5000, (500, 2)).astype(np.int32)
    logs = np.log([w / h for w, h in buckets])
    expected = [np.abs(logs - np.log(w / h)).argmin() for w, h in sizes]
    found = nearest_bucket(sizes, buckets)
    assert found.tolist() == expected and found.dtype == np.int64
    shuffled = [buckets[i] for i in (3, 0, 6, 1, 5, 2, 4)]
    again = nearest_bucket(sizes, shuffled)
    assert [shuffled[i] for i in again] == [buckets[i] for i in found]


def test_what_can_be_drawn_at_any_size_is_square():
    buckets = bucket_sizes(256, 16, Buckets())
    (place,) = nearest_bucket(np.zeros((1, 2), np.int32), buckets)
    assert buckets[place] == (256, 256)
    assert nearest_bucket(np.zeros((0, 2), np.int32), buckets).shape == (0,)
    assert nearest_bucket(np.array([[9, 1]]), [(64, 64)]).tolist() == [0]


def test_fit_cuts_the_middle_and_keeps_proportions():
    pixels = np.zeros((40, 200, 3), np.uint8)
    pixels[:, 80:120] = 255  # a white square in the middle of a wide black picture
    square = np.asarray(fit(Image.fromarray(pixels), (40, 40)))
    assert square.shape == (40, 40, 3) and square.min() == 255
    tall = np.asarray(fit(Image.fromarray(pixels.transpose(1, 0, 2).copy()), (20, 40)))
    assert tall.shape == (40, 20, 3)  # 40 x 80 of 40 x 200, half its size: white between 10 and 30
    assert tall[12:28].min() > 240 and tall[:8].max() < 16 and tall[32:].max() < 16


@pytest.mark.parametrize("size", ((33, 57), (1000, 7), (64, 48), (3, 3), (1367, 911)))
@pytest.mark.parametrize("bucket", ((64, 48), (48, 64), (96, 48), (112, 112)))
def test_fit_gives_the_bucket_for_every_size(size, bucket):
    picture = Image.new("RGB", size, (10, 200, 30))
    fitted = fit(picture, bucket)
    assert fitted.size == bucket and fitted.getextrema() == ((10, 10), (200, 200), (30, 30))
    assert fitted is picture or size != bucket
