"""Glyphs and scenes. Run: pytest tests/stickers/test_scenes.py"""

from __future__ import annotations

import numpy as np
import pytest

from lidit_core.errors import LiDiTError
from lidit_stickers.scenes import glyphs
from lidit_stickers.scenes.kinds import BACKGROUNDS, COLOURS, KINDS
from lidit_stickers.scenes.request import RELATIONS, Item, SceneRequest
from lidit_stickers.scenes.scenes import place, render

NAMED_IN_THE_ISSUE = (
    "apple banana grapes strawberry pizza hamburger doughnut cake cat dog fox panda frog turtle "
    "fish butterfly bee car bus rocket sailboat bicycle house cactus sunflower mushroom star "
    "balloon gift soccer_ball key top_hat"
).split()


def _pixels(size: int, scene, index: int) -> np.ndarray:
    """(row, column) of the pixels that one sprite alone changes."""
    alone = type(scene)((scene.sprites[index],), scene.background)
    changed = np.abs(render(alone, size).astype(int) - BACKGROUNDS[scene.background]).max(-1) > 8
    return np.argwhere(changed)


@pytest.mark.font
def test_vocabulary() -> None:
    """Enough kinds, all different; the colours that a natural name claims can be drawn."""
    assert 64 <= len(KINDS) <= 72 and set(NAMED_IN_THE_ISSUE) <= set(KINDS)
    pictures = {glyphs.glyph(kind).tobytes() for kind in KINDS}
    assert len(pictures) == len(KINDS)
    for kind in KINDS.values():
        assert kind.natural is None or kind.natural in kind.colours


def test_words_are_unambiguous() -> None:
    """No noun, trained or not, names two kinds; plural and singular differ but for a few."""
    nouns = [n for k in KINDS.values() for n in (*k.nouns, *k.unseen)]
    assert len({singular for singular, _ in nouns}) == len(nouns)
    assert len({k.chinese for k in KINDS.values()}) == len(KINDS)


@pytest.mark.parametrize("kind", [k.key for k in KINDS.values() if k.colours])
@pytest.mark.font
def test_recoloured_glyphs_are_far_apart(kind: str) -> None:
    """Each two colours of a kind differ by at least 40/255 on average where they differ at all."""
    looks = [np.asarray(glyphs.glyph(kind, c).convert("RGB"), float) for c in KINDS[kind].colours]
    for i, one in enumerate(looks):
        for other in looks[:i]:
            distance = np.abs(one - other).max(-1)
            assert distance[distance > 8].mean() > 40


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.font
def test_relations_are_met_in_the_pixels(relation: str) -> None:
    """All of the first group's pixels lie on its side of all of the second group's."""
    rng = np.random.default_rng(3)
    keys = list(KINDS)
    for _ in range(12):
        first, second = rng.choice(keys, 2, replace=False)
        items = (Item(str(first), count=int(rng.integers(1, 3))), Item(str(second)))
        request = SceneRequest(items, relation, "white")
        scene = place(request, rng)
        groups = [_pixels(128, scene, i) for i in range(request.total)]
        axis = 1 if relation in ("left of", "right of") else 0
        low, high = groups[:-1], groups[-1:]
        if relation in ("right of", "below"):
            low, high = high, low
        assert max(g[:, axis].max() for g in low) < min(g[:, axis].min() for g in high)


@pytest.mark.parametrize("counts", [(1,), (2,), (3,), (4,), (1, 1), (2, 1), (2, 2), (1, 1, 1)])
@pytest.mark.font
def test_objects_do_not_touch_and_stay_inside(counts: tuple[int, ...]) -> None:
    """Boxes lie in the picture, at least 3 px of 128 apart along one axis."""
    rng = np.random.default_rng(sum(counts))
    for _ in range(30):
        keys = rng.choice(list(KINDS), len(counts), replace=False)
        sizes = rng.choice([None, "small", "big"], len(counts))
        items = tuple(Item(str(k), None, n, s) for k, n, s in zip(keys, counts, sizes))
        scene = place(SceneRequest(items), rng)
        boxes = [sprite.box for sprite in scene.sprites]
        assert len(boxes) == sum(counts)
        for i, a in enumerate(boxes):
            assert min(a) >= 0 and max(a) <= 1
            for b in boxes[:i]:
                gap = max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3])
                assert gap >= 3 / 128


@pytest.mark.font
def test_sizes() -> None:
    """A lone object fills 45 to 65 % of the side; a big one is bigger, a small one smaller."""
    rng = np.random.default_rng(0)

    def sides(size: str | None) -> list[float]:
        request = SceneRequest((Item("star", size=size),))
        return [place(request, rng).sprites[0].side for _ in range(50)]

    plain = sides(None)
    assert 0.45 <= min(plain) and max(plain) <= 0.65
    assert max(sides("small")) < min(plain) and max(plain) < min(sides("big"))


@pytest.mark.parametrize("size", [64, 96, 128])
@pytest.mark.font
def test_rendering_is_deterministic(size: int) -> None:
    """The same seed gives the same bytes; another seed gives another picture."""
    request = SceneRequest((Item("cat"), Item("car", "blue")), "above", "pink")
    one, same, other = (
        render(place(request, np.random.default_rng(seed)), size) for seed in (1, 1, 2)
    )
    assert one.shape == (size, size, 3) and one.dtype == np.uint8
    assert one.tobytes() == same.tobytes() != other.tobytes()
    assert tuple(one[0, 0]) == BACKGROUNDS["pink"]


@pytest.mark.font
def test_colour_reaches_the_picture() -> None:
    """The mean colour of a blue car is bluer than that of a red one."""
    means = {}
    for colour in ("red", "blue"):
        request = SceneRequest((Item("car", colour),), None, "white")
        means[colour] = render(place(request, np.random.default_rng(0)), 128).mean((0, 1))
    assert means["red"][0] > means["blue"][0] and means["blue"][2] > means["red"][2]
    assert len(COLOURS) == 7


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: SceneRequest((Item("cat", count=5),)), "5 objects"),
        (lambda: SceneRequest((Item("cat"),), "above"), "exactly two"),
        (lambda: SceneRequest((Item("cat"),), None, "black"), "'black'"),
        (lambda: Item("unicorn"), "'unicorn'"),
        (lambda: Item("cat", size="enormous"), "'enormous'"),
        (lambda: glyphs.glyph("cat", "green"), "green cat"),
    ],
)
def test_bad_requests(make, words: str) -> None:
    """Each mistake is named in one sentence."""
    with pytest.raises(LiDiTError, match=words):
        make()


def test_missing_font(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the font the message names the Debian package and the variable."""
    monkeypatch.setenv("LIDIT_EMOJI_FONT", "/nowhere/Emoji.ttf")
    with pytest.raises(LiDiTError, match="fonts-noto-color-emoji.*LIDIT_EMOJI_FONT"):
        glyphs.find_font()


def test_a_request_is_written_as_evaluations_hash_it():
    request = SceneRequest((Item("cat"), Item("car", "blue")), "above", "pink")
    assert repr(request) == (
        "SceneRequest(items=(Item(kind='cat', colour=None, count=1, size=None), "
        "Item(kind='car', colour='blue', count=1, size=None)), "
        "relation='above', background='pink', place=None)"
    )
