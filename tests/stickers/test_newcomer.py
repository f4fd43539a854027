"""The object that a fine-tune teaches. Run: pytest tests/stickers/test_newcomer.py"""

from __future__ import annotations

import hashlib
from collections import Counter
from itertools import combinations
from random import Random

import numpy as np
import pytest

from lidit_stickers import newcomer, score
from lidit_stickers.evaluation import chinese_prompts, evaluation_prompts, synonym_prompts
from lidit_stickers.newcomer import newcomer_prompts, training_captions
from lidit_stickers.scenes import heldout
from lidit_stickers.scenes.grammar import WORDINGS, Caption, captions
from lidit_stickers.scenes.kinds import BACKGROUNDS, KINDS, KNOWN_KINDS, NEWCOMER
from lidit_stickers.scenes.request import Item, SceneRequest
from lidit_stickers.scenes.scenes import Scene, Sprite, content, place, render
from lidit_stickers.scorer.report import candidates, report
from lidit_stickers.scorer.scorer import judge, read
from lidit_stickers.scorer.selftest import drawn
from lidit_train.data.sources.folder import FolderSource
from lidit_train.recipe import Data, Source

NEWCOMER_KEY = NEWCOMER.key
# texts and requests, one a line, of the data set and of the fixed prompts
DATA_SET_SHA256 = {
    "en": "ae31281245315559bc2d18f30a61a961c3b77d76b284b7de3ce839eea7b33cd7",
    "zh": "712e7b5a92695678c4a933d39dd9a3f026d6fad016a6de599b9076b395e7d2ff",
    "prompts": "56d5686e9517f2c74e4d68d1699bb3fe12ff8f5f3676f60be9e13a08aa6a6e0a",
}
PROMPTS_SHA256 = "3372b38cd6a2d7a7e6caa52dc30450707f8ecdb1d4d50fef50c09244811db8dd"


def _digest(listed: list[Caption]) -> str:
    lines = "".join(f"{c.text}\t{c.request}\n" for c in listed)
    return hashlib.sha256(lines.encode()).hexdigest()


def test_the_data_set_does_not_know_it() -> None:
    """Captions and prompts are these, byte for byte."""
    assert NEWCOMER_KEY not in KINDS and len(KNOWN_KINDS) == len(KINDS) + 1
    assert _digest(captions(1000, 1, "en")) == DATA_SET_SHA256["en"]
    assert _digest(captions(1000, 2, "zh")) == DATA_SET_SHA256["zh"]
    prompts = evaluation_prompts() + synonym_prompts() + chinese_prompts()
    assert _digest(prompts) == DATA_SET_SHA256["prompts"]


def test_its_words_name_nothing_else() -> None:
    """No kind of the data set shares a noun with it, and no prompt contains one."""
    others = {n for kind in KINDS.values() for noun in (*kind.nouns, *kind.unseen) for n in noun}
    words = {n for noun in (*NEWCOMER.nouns, *NEWCOMER.unseen) for n in noun}
    assert not words & others and NEWCOMER.chinese not in {k.chinese for k in KINDS.values()}
    assert not any(word in prompt.text for prompt in evaluation_prompts() for word in words)


@pytest.mark.font
def test_content_labels_stay() -> None:
    """The 64 count from 1 in their order; the newcomer follows them."""
    for number, kind in enumerate([*KINDS, NEWCOMER_KEY], 1):
        scene = Scene((Sprite(kind, None, 0.5, 0.5, 0.6),), "white")
        assert set(np.unique(content(scene, 16))) == {0, number}


def test_the_rule_leaves_enough_of_it() -> None:
    """Two backgrounds, one number and about a third of the partners are held out."""
    assert sum(heldout.background_held_out(NEWCOMER_KEY, name) for name in BACKGROUNDS) == 2
    assert [n for n in (1, 2, 3, 4) if heldout.count_held_out(NEWCOMER_KEY, n)] == [4]
    assert sum(heldout.pair_held_out(kind, NEWCOMER_KEY) for kind in KINDS) == 18


@pytest.mark.font
def test_training_captions() -> None:
    """20 different ones, each with the newcomer; neither request nor scene is held out."""
    chosen = training_captions()
    assert len({c.text for c in chosen}) == 20 and chosen == training_captions()
    for i, caption in enumerate(chosen):
        kinds = caption.request.kinds
        scene = place(caption.request, np.random.default_rng((newcomer.SCENE_SEED, i)))
        assert NEWCOMER_KEY in kinds and not heldout.is_held_out(caption.request)
        assert not any(heldout.pair_held_out(a, b) for a, b in combinations(kinds, 2))
        assert not any(heldout.background_held_out(kind, scene.background) for kind in kinds)
    assert len({c.request.relation for c in chosen}) == 5
    assert {c.request.total for c in chosen} == {1, 2, 3}


def test_prompts() -> None:
    """60 in four even categories, all held out, none a training text, never changed."""
    prompts = newcomer_prompts()
    assert set(Counter(p.category for p in prompts).values()) == {15} and len(prompts) == 60
    assert all(heldout.is_held_out(p.request) and NEWCOMER_KEY in p.request.kinds for p in prompts)
    assert len({p.text for p in prompts} - {c.text for c in training_captions()}) == 60
    listing = "".join(p.text + "\n" for p in prompts)
    assert hashlib.sha256(listing.encode()).hexdigest() == PROMPTS_SHA256
    assert score.PROMPTS["newcomer"]() == prompts


@pytest.mark.parametrize("accept", [0.88, 0.0])
@pytest.mark.font
def test_drawn_prompts_are_read_right(accept: float) -> None:
    """All of them, strict and nearest; under captions of the next category none is."""
    chosen = newcomer_prompts()[::3]
    result = report(drawn(chosen), chosen, accept)
    assert all(verdict.all for verdict in result.verdicts)
    assert result.overall.n == result.overall.hits == 20
    shifted = chosen[5:] + chosen[:5]
    assert not any(judge(r, c.request).all for r, c in zip(result.scenes, shifted))


@pytest.mark.font
def test_it_is_a_candidate_only_where_asked_for() -> None:
    """Elsewhere a drawn one is an unknown object, and every kind keeps its name beside it."""
    assert candidates(evaluation_prompts()) == tuple(KINDS)
    kinds = candidates(newcomer_prompts()[:1])
    assert kinds == tuple(KNOWN_KINDS)
    picture = render(Scene((Sprite(NEWCOMER_KEY, None, 0.5, 0.5, 0.5),), "white"), 128)
    assert [found.kind for found in read(picture).objects] == [None]
    assert [found.kind for found in read(picture, kinds=kinds).objects] == [NEWCOMER_KEY]
    for kind in list(KINDS)[::8]:
        picture = render(Scene((Sprite(kind, None, 0.5, 0.5, 0.5),), "white"), 128)
        assert read(picture, kinds=kinds).objects[0].kind == kind


@pytest.mark.font
def test_command(tmp_path, capsys) -> None:
    """The folder is a source of the trainer: 20 pictures of 128 px, each with its caption."""
    newcomer.main(["--write", str(tmp_path)])
    assert "20 captioned pictures of a traffic light" in capsys.readouterr().out
    source = Source(kind="folder", path=str(tmp_path))
    found = FolderSource(source, Data(sources=(source,)))
    assert found.sizes.tolist() == [[128, 128]] * 20 and not found.left_out.sentences()
    texts = [found.captions(i)[0][0].strip() for i in range(20)]
    assert texts == [c.text for c in training_captions()]


def test_words_in_both_languages() -> None:
    """The grammars can name it."""
    request = SceneRequest((Item(NEWCOMER_KEY, count=3),), None, "pink")
    for language, words in (("en", "traffic lights"), ("zh", "红绿灯"), ("mixed", "")):
        for wording in filter(None, WORDINGS[language]):
            assert words in wording(request, Random(0)).lower()
