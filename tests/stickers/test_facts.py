"""Prompts of many facts, and how they are scored. Run: pytest tests/stickers/test_facts.py"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lidit_eval.items import items_of, prompts_hash, requests_hash
from lidit_stickers.evaluation import attribution_prompts, evaluation_prompts
from lidit_stickers.judging import LISTS, StickerJudge
from lidit_stickers.many_facts import FACTS, dense_prompts, early_prompts, late_prompts
from lidit_stickers.scenes.grammar import Caption
from lidit_stickers.scenes.heldout import is_held_out
from lidit_stickers.scenes.kinds import BACKGROUNDS, COLOURS
from lidit_stickers.scenes.request import Item, SceneRequest
from lidit_stickers.scorer.facts import count_facts, facts
from lidit_stickers.scorer.scorer import FoundObject, FoundScene, judge, read
from lidit_stickers.scorer.selftest import drawn


def found(kind: str, x: float, colour: str | None = None, side: float = 0.2) -> FoundObject:
    return FoundObject(kind, colour, (x, 0.4, x + side, 0.4 + side), 1.2)


ASKED = SceneRequest((Item("apple", "red", 2), Item("car", None, 1)), "left of", "blue")
RIGHT = (found("apple", 0.0, "red"), found("apple", 0.25, "red"), found("car", 0.7))


@pytest.mark.parametrize(
    ("objects", "background", "fails"),
    [
        (RIGHT, "blue", set()),
        (RIGHT, "green", {"blue background"}),
        (RIGHT[1:], "blue", {"2 apple"}),
        (RIGHT[:2], "blue", {"car", "left of"}),
        ((found("apple", 0.0, "green"), *RIGHT[1:]), "blue", {"red apple"}),
        ((*RIGHT[:2], found("car", 0.1)), "blue", {"left of"}),
        ((), "blue", {"apple", "2 apple", "red apple", "car", "left of"}),
    ],
)
def test_each_fact_is_held_by_itself(objects, background, fails):
    held = facts(FoundScene(background, objects), ASKED)
    assert len(held) == count_facts(ASKED) == 6
    assert {name for name, holds in held.items() if not holds} == fails


def test_sizes_are_facts_where_they_can_be_held_against_something():
    both = SceneRequest((Item("car", size="big"), Item("cat", size="small")))
    one = SceneRequest((Item("car", size="big"), Item("cat")))
    assert "sizes" in facts(FoundScene(None, ()), both) and "sizes" not in facts(
        FoundScene(None, ()), one
    )
    big, small = found("car", 0.0, side=0.4), found("cat", 0.6)
    assert facts(FoundScene(None, (big, small)), both)["sizes"]
    assert not facts(FoundScene(None, (found("car", 0.0), found("cat", 0.6, side=0.4))), both)[
        "sizes"
    ]


@pytest.mark.font
def test_attribution_is_two_things_in_a_colour_each():
    """Held out, none of them among the fixed prompts, and read right where they are drawn."""
    captions = attribution_prompts()
    assert len({caption.text for caption in captions}) == 180
    assert not {c.text for c in captions} & {c.text for c in evaluation_prompts()}
    for caption in captions:
        one, other = caption.request.items
        assert is_held_out(caption.request) and one.kind != other.kind
        assert one.colour and other.colour and one.colour != other.colour
    few = captions[::9]
    scenes = [read(np.asarray(picture)) for picture in drawn(few)]
    for scene, caption in zip(scenes, few, strict=True):
        one, other = caption.request.items
        swapped = replace(one, colour=other.colour), replace(other, colour=one.colour)
        assert judge(scene, caption.request).all
        assert not judge(scene, replace(caption.request, items=swapped)).all


WRONG = {  # what a category's picture may not get wrong, beside the things and their number
    "position": "relation",
    "colour": "colours",
    "background": "background",
    "colour attribution": "colours",
    "dense": "background",
    "chinese": "background",
    "mixed": "background",
    "colour and number": "colours",
    "2 pairs": "colours",
    "3 pairs": "colours",
    "4 pairs": "colours",
}
ONLY_THINGS = {"single object", "two objects", "counting", "unseen synonym"}
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def drawn_wrong(caption: Caption, what: str) -> np.ndarray:
    """What a caption asks for, but for one thing."""
    request = caption.request
    ground = next(name for name in BACKGROUNDS if name not in (request.background, None))
    colours = [item.colour for item in request.items]
    other = next(c for c in COLOURS if c not in colours)
    changed = {
        "relation": lambda: {"relation": OPPOSITE[request.relation]},
        "background": lambda: {"background": ground},
        "colours": lambda: {
            "items": tuple(
                replace(item, colour=colour and other)
                for item, colour in zip(request.items, colours)
            )
        },
    }
    (picture,) = drawn([replace(caption, request=replace(request, **changed[what]()))])
    return np.asarray(picture)


@pytest.mark.font
def test_every_category_of_every_list_sees_what_it_asks_for():
    """By the judge that `lidit eval` asks: a right picture is a hit, and a wrong one is none."""
    seen = set()
    for items in (read_list() for read_list in LISTS.values()):
        for item in items:
            category, what = item.category, WRONG.get(item.category)
            asked = item.asked.request
            known = {"relation": asked.relation, "background": asked.background, None: True}
            if category in seen or not known.get(what, any(i.colour for i in asked.items)):
                continue
            seen.add(category)
            judge = StickerJudge([item])
            (right,) = drawn([item.asked])
            assert judge.judge(np.asarray(right), item).scores["strict"] == 1, category
            if what is not None:
                found = judge.judge(drawn_wrong(item.asked, what), item).scores
                assert found["strict"] == found["nearest"] == 0, category
    assert seen == {*WRONG, *ONLY_THINGS}


@pytest.mark.font
def test_drawn_scenes_hold_their_facts_and_others_do_not():
    captions = dense_prompts()[::6]
    scenes = [read(np.asarray(picture)) for picture in drawn(captions)]
    share = [np.mean(list(facts(r, c.request).values())) for r, c in zip(scenes, captions)]
    assert np.mean(share) >= 0.99
    others = zip(scenes, captions[1:] + captions[:1])
    assert np.mean([np.mean(list(facts(r, c.request).values())) for r, c in others]) <= 0.2


def test_the_lists_are_what_they_say_and_never_change():
    dense = dense_prompts()
    assert len({caption.text for caption in dense}) == 120
    assert all(is_held_out(c.request) for c in dense)
    assert all(FACTS[0] <= count_facts(c.request) <= FACTS[1] for c in dense)
    early, late = early_prompts(), late_prompts()
    assert len({caption.text for caption in (*early, *late)}) == 800
    assert [c.request for c in early] == [c.request for c in late]
    for caption in (*early, *late):
        (item,) = caption.request.items
        place, noun = caption.text.index(item.colour), caption.text.index(item.kind[:3])
        assert (place < noun) == (caption in early), caption.text
    lists = [items_of(name) for name in ("early", "late", "dense")]
    assert requests_hash(lists[0]) == requests_hash(lists[1]) != requests_hash(lists[2])
    assert [prompts_hash(each)[:8] for each in lists] == ["32484184", "b0d1ee2d", "935af772"]
