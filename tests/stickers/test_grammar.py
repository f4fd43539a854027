"""Captions, the held-out rule, evaluation prompts. Run: pytest tests/stickers/test_grammar.py"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from itertools import combinations
from random import Random

import numpy as np
import pytest

from lidit_core.errors import LiDiTError
from lidit_stickers.evaluation import (
    CATEGORIES,
    chinese_prompts,
    evaluation_prompts,
    synonym_prompts,
)
from lidit_stickers.paraphrases import (
    half_prompts,
    long_prompts,
    long_prompts_in_short,
    mixed_prompts,
    paraphrases,
)
from lidit_stickers.scenes import heldout
from lidit_stickers.scenes.english import SIZE_WORDS
from lidit_stickers.scenes.grammar import Caption, captions
from lidit_stickers.scenes.kinds import BACKGROUNDS, COLOURS, KINDS
from lidit_stickers.scenes.request import PLACES, RELATIONS, Item, SceneRequest
from lidit_stickers.scenes.scenes import place
from lidit_stickers.scenes.wordings import filler
from lidit_stickers.scenes.wordings.kept import KEPT
from lidit_stickers.scenes.wordings.nouns import TRAINED_NOUNS
from lidit_stickers.scenes.wordings.trained import TRAINED
from lidit_stickers.scenes.wordings.words import Words

SIZES = {"en": 8000, "zh": 2000, "mixed": 2000}
# of the evaluation prompts, one a line
COMMON = ("", "and", "i need", "imagine")  # pieces of templates that decide nothing alone
PROMPTS_SHA256 = "76306b2dc7a61bd528b379f7b5b7b165003c4a316e21961d95784cc659f32728"


@pytest.fixture(scope="module", params=list(SIZES))
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
    assert min(kinds[k] for k in KINDS) >= 80 * share
    assert min(Counter(item.colour for item in items)[c] for c in COLOURS) >= 150 * share
    assert min(Counter(c.request.total for c in training)[n] for n in (1, 2, 3, 4)) >= 250 * share
    assert min(Counter(c.request.relation for c in training)[r] for r in RELATIONS) >= 500 * share
    assert min(Counter(c.request.place for c in training)[p] for p in PLACES) >= 40 * share
    coloured = [sum(i.colour is not None for i in c.request.items) for c in training]
    assert sum(n >= 2 for n in coloured) >= 0.13 * len(training)
    assert sum(len(c.request.items) == 4 for c in training) >= 0.05 * len(training)
    backgrounds = Counter(c.request.background for c in training)
    assert min(backgrounds[b] for b in BACKGROUNDS) >= 550 * share
    assert 0.3 < backgrounds[None] / len(training) < 0.5


def _is_named(item: Item, text: str) -> bool:
    nouns = [noun[item.count > 1] for noun in TRAINED_NOUNS[item.kind]]
    return any(noun in text for noun in nouns) and (item.colour or "") in text


def test_english_says_what_is_asked() -> None:
    """Every kind is named in its number, and colours, sizes and the background are."""
    for caption in captions(4000):
        text, request = caption.text.lower(), caption.request
        assert all(_is_named(item, text) for item in request.items), caption
        for item in request.items:
            assert item.size is None or any(word in text for word in SIZE_WORDS[item.size])
        assert request.background is None or request.background in text
        assert not set("{}") & set(text)
        for word, following in zip(text.split(), text.split()[1:]):
            if word in ("a", "an"):
                assert (word == "an") == (following[0] in "aeiou"), text


@pytest.mark.parametrize("words", [TRAINED, KEPT], ids=["trained", "kept"])
def test_every_wording_holds_what_it_words(words: Words) -> None:
    """No template lacks a slot, and none has one that nothing fills."""

    def slots(templates) -> list[set[str]]:
        return [set(re.findall(r"{(\w+)}", template)) for template in templates]

    for forms in words.relations.values():
        assert all(found == {"a", "b"} for found in slots(forms))
    for forms in words.statements.values():
        assert all("x" in found and found <= {"x", "y", "is"} for found in slots(forms))
    assert all(found == {"a", "b"} for found in slots(words.pairs))
    assert all(found == {"scene", "bg"} for found in slots(words.backgrounds))
    assert all(found == {"bg"} for found in slots(words.grounds))
    told = (*words.sentences, *words.commands, *words.questions)
    assert all({"scene"} <= found <= {"scene", "is"} for found in slots(told))
    assert all({"a"} <= found <= {"a", "is"} for found in slots(words.introductions))
    assert all(len(found & {"what", "colour"}) == 1 for found in slots(words.after))
    assert set(words.numbers) == {1, 2, 3, 4} and set(words.places) == set(PLACES)


@pytest.mark.parametrize("words", [TRAINED, KEPT], ids=["trained", "kept"])
def test_filler_asks_for_nothing(words: Words) -> None:
    """No tag and no story names a kind, a colour, a number, a size or a place."""
    nouns = {n for kind in KINDS for pair in TRAINED_NOUNS[kind] for n in pair}
    nouns |= {n for kind in KINDS.values() for pair in kind.unseen for n in pair}
    nouns -= {"home"}  # a house is one; nobody goes home in these stories
    facts = nouns | set(COLOURS) | {w for words_ in SIZE_WORDS.values() for w in words_}
    facts |= {"one", "two", "three", "four", "left", "right", "above", "below", "top", "bottom"}
    facts -= {"little"}  # my little sister
    rng = Random(0)
    for _ in range(3000):
        text = f"{filler.story(words, rng)} {filler.tags(words, rng, 3)}"
        plain = " " + re.sub(r"[^\w' -]", " ", text.lower()) + " "
        assert not [fact for fact in facts if f" {fact} " in plain], text


def test_untrained_words_stay_untrained() -> None:
    """No training caption contains a synonym, or a wording, that is kept for evaluation."""
    texts = " ".join(f" {re.sub('[.,;?]', '', c.text.lower())} |" for c in captions(SIZES["en"]))
    for kind in KINDS.values():
        for singular, plural in kind.unseen:
            assert f" {singular} " not in texts and f" {plural} " not in texts
    kept = [w for n, words in KEPT.numbers.items() for w in words if w not in ("a", "1")]
    kept += [*KEPT.adjectives, *KEPT.tags, *KEPT.openings]
    assert not [word for word in kept if f" {word.strip()} " in texts]
    templates = [*KEPT.backgrounds, *KEPT.grounds, *KEPT.sentences, *KEPT.commands]
    templates += [*KEPT.questions, *KEPT.introductions, *KEPT.after]
    templates += [t for forms in KEPT.relations.values() for t in forms]
    for template in templates:
        pieces = [
            re.sub("[.,;?]", "", piece).strip().lower() for piece in re.split("{.*?}", template)
        ]
        longest = max(pieces, key=len)
        assert f" {longest} " not in texts or longest in COMMON, template


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


LISTS = {
    paraphrases: "cfb94652e3a269067c4cd53692b34fd348829c2592e3779c84cd4aaa0494dd20",
    long_prompts: "2d22c6003ff11efa277bcef5ceff977d52fbe8cf78970747d0ce5fc4e0fd9190",
    long_prompts_in_short: "6d8f00f0c180eca537ba61fe5305711b83f823ce6938ccaa68bc110345aff23e",
    half_prompts: "192684b6a8e3c7f3bbded640820cb9c8321d70c9641fb9b92ddf1f1fb53c6464",
    mixed_prompts: "31b762126f629a4c312ded4a758a1705b5e6cf1af5b64d5363f5cf319f165461",
}


@pytest.mark.parametrize("prompts", LISTS, ids=lambda prompts: prompts.__name__)
def test_more_lists_never_change(prompts) -> None:
    """All held out, none a training text, each different; the list is this one."""
    found = prompts()
    texts = [caption.text for caption in found]
    assert len(set(texts)) == len(texts)
    assert all(heldout.is_held_out(caption.request) for caption in found)
    assert not set(texts) & {c.text for c in captions(SIZES["en"])}
    listing = "".join(text + "\n" for text in texts)
    assert hashlib.sha256(listing.encode()).hexdigest() == LISTS[prompts]


def test_long_prompts_ask_for_what_the_short_ones_ask() -> None:
    pairs = list(zip(long_prompts(), long_prompts_in_short(), strict=True))
    assert len(pairs) == 100
    assert all(a.request == b.request and len(a.text) > len(b.text) + 40 for a, b in pairs)
    assert Counter(c.category for c in paraphrases()) == dict.fromkeys(CATEGORIES, 50)
    assert len(mixed_prompts()) == 60


def test_bad_arguments() -> None:
    """An unknown language is named."""
    with pytest.raises(LiDiTError, match="'fr'"):
        captions(1, 0, "fr")
