"""Which pictures a step trains on, and what chance adds.

Run: pytest tests/train/data/test_schedule.py
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_training import RECIPES

from lidit_core.diffusion.times import Focus
from lidit_core.errors import LiDiTError
from lidit_train.data.sample_draws import draw_sample
from lidit_train.data.schedule import Schedule, StageBuckets
from lidit_train.recipe import Data, Model, Recipe, Source, Stage, Subset
from lidit_train.units import as_times

SIZES = ((32, 64), (32, 32), (64, 32))


def recipe(*sources: Source, **stage) -> Recipe:
    fields = {"images": 400, "batch": 4, **stage}
    sources = sources or (Source("folder", "a"), Source("folder", "b"))
    return Recipe(Data(sources), (Stage(**fields),), Model(preset="stickers"))


def buckets(*counts: tuple[int, int, int]) -> StageBuckets:
    """For each source, how many pictures it has of each size."""
    members = []
    for several in counts:
        ends = np.cumsum((0, *several))
        members.append(tuple(np.arange(a, b) for a, b in zip(ends, ends[1:])))
    return StageBuckets(SIZES, tuple(members))


def schedule(made: Recipe, stage: StageBuckets, branches=(0,), **state) -> Schedule:
    return Schedule(made, [stage], branches, **state)


def test_a_batch_has_one_shape_and_every_picture_comes_before_any_comes_again():
    made, stage = recipe(), buckets((12, 20, 4), (8, 0, 4))
    seen = Counter()
    for plan in schedule(made, stage):
        assert {row.bucket for row in plan.rows} == {plan.bucket}
        for row in plan.rows:
            assert row.index in stage.members[row.source][row.bucket]
            seen[row.source, row.bucket, row.index] += 1
    assert sum(seen.values()) == 400 and len(seen) == 48
    for source, bucket in {key[:2] for key in seen}:
        times = [n for key, n in seen.items() if key[:2] == (source, bucket)]
        assert max(times) - min(times) <= 1


def test_a_schedule_goes_on_where_its_position_says():
    made, stage = recipe(), buckets((12, 20, 4), (8, 0, 4))
    straight = list(schedule(made, stage))
    stopped = straight[37]
    resumed = schedule(made, stage, step=38, position=dict(stopped.position))
    assert list(resumed) == straight[38:]
    other = Recipe(made.data, made.stages, made.model, seed=1)
    assert [p.rows for p in schedule(other, stage)] != [p.rows for p in straight]


def test_a_source_is_drawn_from_as_often_as_its_weight_says():
    made = recipe(Source("folder", "a", weight=3.0), Source("folder", "b"), images=4000)
    drawn = Counter(r.source for p in schedule(made, buckets((0, 9, 0), (0, 9, 0))) for r in p.rows)
    assert 0.70 < drawn[0] / 4000 < 0.80


@pytest.mark.parametrize("stages", (1, 2))
def test_how_often_pictures_are_seen_is_known_before(stages, caplog):
    """Counted over a whole run, it is what the schedule has said, but for chance."""
    sources = (Source("folder", "a", weight=3.0), Source("folder", "b", branches=(1,)))
    subsets = (Subset((0,)), Subset((0, 1), weight=3.0))
    made = recipe(*sources, images=6000, subsets=subsets)
    made = replace(made, stages=made.stages * stages)
    plans = Schedule(made, [buckets((4, 9, 0), (0, 9, 6))] * stages, (0, 1))
    (count, often), (others, seldom) = plans.times_seen()
    assert (count, others) == (13, 15)
    drawn = Counter(row.source for plan in plans for row in plan.rows)
    assert [drawn[0] / 13, drawn[1] / 15] == pytest.approx([often, seldom], rel=0.05)
    assert 13 * often + 15 * seldom == pytest.approx(6000 * stages)
    with caplog.at_level("INFO", "lidit_train"):
        plans.tell_seen()
    assert f"source a: each of its 13 pictures is seen about {as_times(often)}" in caplog.text


def test_branches_get_only_what_one_of_them_reads():
    made = recipe(
        Source("folder", "en"),
        Source("folder", "zh", branches=(1,)),
        subsets=(Subset((0,)), Subset((1,)), Subset((0, 1))),
    )
    seen = {(p.branches, r.source) for p in schedule(made, buckets((0, 9, 0), (0, 9, 0)), (0, 1))
            for r in p.rows}  # fmt: skip
    assert ((0,), 1) not in seen and ((1,), 1) in seen and ((0, 1), 1) in seen
    with pytest.raises(LiDiTError, match=r"branches \[0\] can read"):
        schedule(
            recipe(Source("folder", "zh", branches=(1,)), subsets=(Subset((0,)),)),
            buckets((0, 9, 0)), (0, 1),
        )  # fmt: skip


def test_a_stage_may_take_some_sources_only():
    made = recipe(Source("folder", "a"), Source("folder", "b"), sources=(1,))
    plans = schedule(made, buckets((9, 9, 9), (9, 9, 9)))
    assert {row.source for plan in plans for row in plan.rows} == {1}


def test_who_stands_in_for_a_broken_picture_is_the_next_of_its_pool():
    stage = buckets((3, 3, 0))
    row = next(iter(schedule(recipe(Source("folder", "a")), stage))).rows[0]
    round_trip = [row]
    for _ in range(3):
        round_trip.append(stage.following(round_trip[-1]))
    assert round_trip[-1] == row and len({r.index for r in round_trip}) == 3


def test_chance_is_decided_by_seed_step_and_row():
    def fate(*numbers):
        return draw_sample(*numbers, Data((Source("folder", "a"),)), "flow", 1.0, (2, 3, 4))

    assert torch.equal(fate(0, 1, 2).noise, fate(0, 1, 2).noise)
    others = [fate(1, 1, 2), fate(0, 2, 2), fate(0, 1, 3)]
    assert not any(torch.equal(fate(0, 1, 2).noise, other.noise) for other in others)


def test_captions_are_dropped_zeroed_and_chosen_as_often_as_the_recipe_says():
    data = Data((Source("folder", "a"),), caption_dropout=0.3, text_zeroing=0.1)
    drawn = [draw_sample(0, 0, row, data, "flow", 1.0, (1, 1, 1)) for row in range(4000)]
    assert 0.27 < sum(f.dropped for f in drawn) / 4000 < 0.33
    assert 0.08 < sum(f.zeroed for f in drawn) / 4000 < 0.12
    assert not any(f.dropped and f.zeroed for f in drawn)
    texts = Counter(f.choose([("short", 1.0), ("long", 3.0)]) for f in drawn)
    assert texts[""] == sum(f.dropped for f in drawn)
    assert 0.70 < texts["long"] / (texts["long"] + texts["short"]) < 0.80


def test_times_are_shifted_towards_noise():
    data = Data((Source("folder", "a"),))
    mean = {
        shift: np.mean([float(draw_sample(0, 0, n, data, "flow", shift, (1, 1, 1)).time)
                        for n in range(500)])
        for shift in (1.0, 5.0)
    }  # fmt: skip
    assert 0.45 < mean[1.0] < 0.55 and mean[5.0] > 0.75


def test_a_focus_draws_some_rows_anew_and_leaves_the_captions_and_the_others_times():
    data = Data((Source("folder", "a"),))

    def drawn(*focus):
        return [draw_sample(0, 0, n, data, "flow", 3.0, (1, 1, 1), *focus) for n in range(2000)]

    plain, focused = drawn(None), drawn(Focus(0.6, 0.9, 0.4))
    drawn = [b.time for a, b in zip(plain, focused) if a.time != b.time]
    assert 0.37 < len(drawn) / 2000 < 0.43
    assert all(0.6 < time <= 0.9 for time in drawn)
    same = [(a.caption, a.dropped, a.zeroed) for a in plain]
    assert same == [(a.caption, a.dropped, a.zeroed) for a in focused]


def test_recipes_that_ship_are_read():
    from lidit_train.recipe_file import read_recipe
    from lidit_train.tasks.lidit.start import configuration

    assert RECIPES
    for path in RECIPES:
        made = read_recipe(path)
        if (
            made.adapter is None
            and made.bridge is None
            and made.model.checkpoint in ("", "stickers")
        ):
            configuration(made.model, made.stages)
