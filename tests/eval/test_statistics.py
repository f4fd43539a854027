"""Intervals of scores. Run: pytest tests/eval/test_statistics.py"""

from __future__ import annotations

import numpy as np
import pytest

from lidit_eval.statistics import bootstrap, interval, wilson


def test_wilson_is_that_of_the_tables():
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(10, 10)[1] == 1.0 and wilson(0, 10)[0] == 0.0


def test_the_bootstrap_covers_the_mean_as_often_as_it_says():
    """95 of 100 samples, give or take; and as wide as the normal theory says."""
    generator = np.random.default_rng(1)
    samples = generator.normal(0.4, 0.2, (60, 120))
    found = [bootstrap(sample) for sample in samples]
    covered = sum(low <= 0.4 <= high for low, high in found)
    assert 51 <= covered <= 60
    widths = [high - low for low, high in found]
    assert np.mean(widths) == pytest.approx(2 * 1.96 * 0.2 / 120**0.5, rel=0.05)


def test_shares_have_wilsons_interval_and_other_means_the_bootstraps():
    assert interval([1.0] * 9) == wilson(9, 9)
    assert interval([1.0, 0.0, 1.0]) == wilson(2, 3)
    assert interval([0.5, 0.25, 1.0]) == bootstrap([0.5, 0.25, 1.0])
    assert bootstrap([0.1, 0.2]) == bootstrap([0.1, 0.2])
