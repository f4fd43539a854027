"""How sure an ablation is. Run: pytest tests/stickers/ablation/test_ablation_statistics.py"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lidit_stickers.ablation import statistics
from lidit_stickers.ablation.measuring import RunMeasurements
from lidit_stickers.ablation.statistics import difference, holm, seed_variance
from lidit_stickers.ablation.table import Told, write_tables
from lidit_stickers.ablation.variants import Ablation, Claim, Reading, Variant


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


def table(tmp_path, full: float, none: float, **nearest: np.ndarray) -> str:
    """Of a reference and another variant with these text gaps; the paper has the first above."""
    ablation = Ablation(
        fork={"stages": [{"images": 40}, {"images": 2}]},
        variants=(Variant("full", "", ("one",)), Variant("none", "", ("one",))),
        reference="full",
        readings={"one": Reading("one", 32)},
        claims=(Claim("it helps", "full", "none", "2", (2.0, 1.0)),),
        seeds=(0,),
        checkpoint="x",
    )
    noise = np.random.default_rng(0).normal(0, 0.01, (2, 3, 50))
    found = {}
    for name, gap, own in zip(("full", "none"), (full, none), noise):
        errors = np.stack([np.ones((3, 50)), 1 + gap + own], axis=-1).astype(np.float32)
        found[name, 0] = RunMeasurements(errors, nearest.get(f"{name}_", np.zeros(0)))
    hashes = {"trunk_sha256": "0" * 64, "autoencoder_sha256": "1" * 64}
    return write_tables(ablation, found, hashes, {"full-0": {}}, tmp_path)


def test_the_table_says_what_contradicts_the_paper_and_what_is_not_there_yet(tmp_path):
    told = table(tmp_path, 0.1, 0.2)
    assert f"Weights {'0' * 12}, autoencoder {'1' * 12}; each variant and seed learnt on 42" in told
    assert "- Against the paper, 1 of 1: it helps.\n- As in the paper, 0 of 1: none." in told
    assert "**against the paper**" in told and "pictures of 1 seed are still to be" in told
    assert "does not read" not in told
    one, both = np.ones(6), {"full_": np.ones(6), "none_": np.zeros(6)}
    assert "pictures of 1 seed are still" in table(tmp_path, 0.2, 0.1, full_=one)
    assert "+1.000 (+1.000 to +1.000)" in (told := table(tmp_path, 0.2, 0.1, **both))
    assert "still to be drawn" not in told and "- As in the paper, 1 of 1: it helps." in told


def test_a_larger_gap_is_larger_though_the_reference_does_not_read(tmp_path):
    """The reference's gap is below 0, and the other's farther below."""
    told = table(tmp_path, -0.1, -0.3)
    assert "- As in the paper, 1 of 1: it helps." in told
    assert "`full` does not read its text" in told
