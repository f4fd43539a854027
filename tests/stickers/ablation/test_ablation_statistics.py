"""How sure an ablation is. Run: pytest tests/stickers/ablation/test_ablation_statistics.py"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lidit_stickers.ablation import statistics
from lidit_stickers.ablation.statistics import difference, holm, seed_variance
from lidit_stickers.ablation.table import Told
from lidit_stickers.ablation.variants import Claim


def simulated(effect: float, seed: int, variants: int = 6, seeds: int = 2, scenes: int = 200):
    """Runs with a known effect: scenes and seeds move all variants alike, and each by itself."""
    g = np.random.default_rng(seed)
    common = g.normal(0, 3, (1, seeds, scenes)) + g.normal(0, 1, (1, seeds, 1))
    own = g.normal(0, 0.1, (variants, seeds, 1)) + g.normal(0, 0.5, (variants, 1, scenes))
    values = common + own
    values[0] += effect
    return values


def test_intervals_hold_what_they_promise():
    """Over 600 simulated ablations 95 % intervals hold the effect as often as they say."""
    held = 0
    for number in range(600):
        values = simulated(0.4, number)
        low, high = difference(values[0], values[1], seed_variance(values.mean(axis=2))).interval()
        held += low <= 0.4 <= high
    assert 0.925 < held / 600 < 0.985


def test_seeds_count_though_scenes_are_many():
    """A difference that is only one seed's luck is not clear of 0 however many the scenes."""
    claimed = {True: 0, False: 0}
    for number in range(300):
        values = simulated(0.0, number, scenes=5000)
        for pooled in claimed:
            seeds = seed_variance(values.mean(axis=2))
            found = difference(values[0], values[1], seeds if pooled else replace(seeds, freedom=0))
            claimed[pooled] += found.p < 0.05
    assert claimed[True] / 300 < 0.08 < 0.5 < claimed[False] / 300


def test_holm_is_the_textbooks():
    """Adjusted p values by hand, and intervals that are clear of 0 just where these hold."""
    found = [statistics.Difference(m, 1.0, 1e9) for m in (3.2, 0.5, 2.1, -2.6)]
    p = [each.p for each in found]
    corrected = holm(found)
    expected = [4 * p[0], 2 * p[2], 2 * p[2], 3 * p[3]]
    expected[1] = max(p[1], 2 * p[2])
    assert [each.p for each in corrected] == pytest.approx(expected)
    for each in corrected:
        assert each.holds == (each.low > 0 or each.high < 0)


def test_verdicts_say_where_the_paper_is_contradicted():
    sure, unsure = (statistics.Corrected(p, -9, -1) for p in (0.01, 0.2))
    claim = Claim("x", "a", "b", "2", (2.0, 1.0))
    assert Told(claim, (), -5.0, sure, None).verdict == "**against the paper**"
    assert Told(claim, (), 5.0, sure, None).verdict == "as in the paper"
    assert Told(claim, (), 5.0, unsure, None).verdict == "not seen at this size"
    assert Told(replace(claim, paper=()), (), -5.0, sure, None).verdict == "smaller"
