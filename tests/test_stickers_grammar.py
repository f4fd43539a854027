"""Captions, the held-out rule, evaluation prompts. Run: pytest tests/test_stickers_grammar.py"""

from __future__ import annotations

import hashlib
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from lidit_core.errors import LiDiTError
from stickers import heldout
from stickers.english import NUMBERS
from stickers.evaluation import (
    CATEGORIES,
    chinese_prompts,
    evaluation_prompts,
    synonym_prompts,
)
from stickers.grammar import Caption, captions
from stickers.kinds import BACKGROUNDS, COLOURS, KINDS
from stickers.request import RELATIONS, Item, SceneRequest
from stickers.scenes import place

SIZES = {"en": 8000, "zh": 2000}
# of the evaluation prompts, one a line
PROMPTS_SHA256 = "76306b2dc7a61bd528b379f7b5b7b165003c4a316e21961d95784cc659f32728"


@pytest.fixture(scope="module", params=["en", "zh"])
def training(request: pytest.FixtureRequest) -> list[Caption]:
    return captions(SIZES[request.param], 0, request.param)


def test_captions_are_distinct_and_deterministic(training: list[Caption]) -> None:
    """Distinct texts; the same again; a longer list begins with the shorter; seeds differ."""
    language = training[0].language
    assert len({c.text for c in training}) == len(training) == SIZES[language]
    assert captions(200, 0, language) == training[:200]
    assert captions(200, 1, language) != training[:200]


@pytest.mark.font
def test_nothing_held_out_is_trained_on(training: list[Caption]) -> None:
    """Neither the request nor the scene drawn from it, whose background may be chosen freely."""
    rng = np.random.default_rng(0)
    for caption in training[::2]:
        scene = place(caption.request, rng)
        kinds = caption.request.kinds
        assert not heldout.is_held_out(caption.request)
        assert not any(heldout.pair_held_out(a, b) for a, b in combinations(kinds, 2))
        assert not any(heldout.background_held_out(k, scene.background) for k in kinds)
        for item in caption.request.items:
            assert not heldout.count_held_out(item.kind, item.count)
            assert item.colour is None or not heldout.colour_held_out(item.kind, item.colour)


def test_coverage(training: list[Caption]) -> None:
    """Every kind, colour, count, relation and background is well used."""
    share = len(training) / 8000
    items = [item for c in training for item in c.request.items]
    kinds = Counter(item.kind for item in items)
    assert min(kinds[k] for k in KINDS) >= 100 * share
    assert min(Counter(item.colour for item in items)[c] for c in COLOURS) >= 150 * share
    assert min(Counter(c.request.total for c in training)[n] for n in (1, 2, 3, 4)) >= 250 * share
    assert min(Counter(c.request.relation for c in training)[r] for r in RELATIONS) >= 500 * share
    backgrounds = Counter(c.request.background for c in training)
    assert min(backgrounds[b] for b in BACKGROUNDS) >= 550 * share
    assert 0.3 < backgrounds[None] / len(training) < 0.5


def test_english_says_what_is_asked() -> None:
    """Each noun phrase is right: article, number, plural, colour, and the background is named."""
    for caption in captions(2000):
        text, request = caption.text.lower(), caption.request
        for item in request.items:
            forms = KINDS[item.kind].nouns
            if item.count == 1:
                named = any(noun in text for noun, _ in forms)
            else:
                named = any(
                    f"{n} {_words(item)}{many}" in text
                    for _, many in forms
                    for n in NUMBERS[item.count]
                )
            assert named, caption
            assert item.colour is None or f"{item.colour} " in text
        assert request.background is None or request.background in text
        for word, vowel in zip(text.split(), text.split()[1:]):
            if word in ("a", "an"):
                assert (word == "an") == (vowel[0] in "aeiou"), text


def _words(item: Item) -> str:
    return "" if item.colour is None else f"{item.colour} "


def test_untrained_synonyms_stay_untrained() -> None:
    """No training caption contains a word that is kept for the unseen synonyms."""
    texts = " ".join(f" {c.text.lower().strip('.')} ," for c in captions(SIZES["en"]))
    for kind in KINDS.values():
        for singular, plural in kind.unseen:
            assert f" {singular} " not in texts and f" {plural} " not in texts


def test_rule_shares() -> None:
    """The rule holds out about the shares it declares, and never so much that a kind is lost."""
    pairs = [heldout.pair_held_out(a, b) for a, b in combinations(KINDS, 2)]
    assert 0.12 < np.mean(pairs) < 0.18
    for kind in KINDS:
        assert len(heldout.allowed_backgrounds((kind,))) >= 3
        assert sum(heldout.count_held_out(kind, n) for n in (2, 3, 4)) <= 2
    for pair in combinations(KINDS, 2):
        names = heldout.allowed_backgrounds(pair)
        assert not any(heldout.background_held_out(k, n) for k in pair for n in names)
    assert heldout.pair_held_out("cat", "dog") == heldout.pair_held_out("dog", "cat")
    assert not heldout.is_held_out(SceneRequest((Item("cat"),)))


def test_evaluation_prompts() -> None:
    """At least 1,000 in six even categories, all held out, none a training text, never changed."""
    prompts = evaluation_prompts()
    assert len(prompts) >= 1000
    assert set(Counter(p.category for p in prompts).values()) == {len(prompts) // 6}
    assert tuple(dict.fromkeys(p.category for p in prompts)) == CATEGORIES
    assert all(heldout.is_held_out(p.request) for p in prompts)
    assert all(heldout.is_held_out(p.request) for p in chinese_prompts())
    everything = prompts + synonym_prompts() + chinese_prompts()
    texts = {p.text for p in everything}
    assert len(texts) == len(everything)
    assert not texts & {c.text for c in captions(SIZES["en"]) + captions(SIZES["zh"], 0, "zh")}
    listing = "".join(p.text + "\n" for p in prompts)
    assert hashlib.sha256(listing.encode()).hexdigest() == PROMPTS_SHA256


def test_bad_arguments() -> None:
    """An unknown language is named."""
    with pytest.raises(LiDiTError, match="'fr'"):
        captions(1, 0, "fr")
