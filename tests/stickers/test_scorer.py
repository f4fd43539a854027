"""The scorer on drawn scenes. Run: pytest tests/stickers/test_scorer.py"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lidit_core.errors import LiDiTError
from lidit_stickers import score
from lidit_stickers.evaluation import evaluation_prompts
from lidit_stickers.scenes.grammar import captions
from lidit_stickers.scenes.request import Item, SceneRequest
from lidit_stickers.scenes.scenes import Scene, Sprite, render
from lidit_stickers.scorer.report import grid, report, wilson
from lidit_stickers.scorer.scorer import FoundObject, FoundScene, judge, read
from lidit_stickers.scorer.segments import components
from lidit_stickers.scorer.selftest import blurred, drawn, recognised, shuffled, unknown_objects

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = evaluation_prompts()[::30]


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return drawn(SAMPLE)


@pytest.mark.font
def test_drawn_scenes_are_read_right(pictures: list[np.ndarray]) -> None:
    """At least 0.99 in each category, whole prompts included; next to nothing when shuffled."""
    result = report(pictures, SAMPLE)
    assert len(result.rows) == 6
    for row in result.rows:
        assert row.score >= 0.99 and row.whole / row.n >= 0.99, row
    wrong = [row for row in shuffled(result) if row.category != "background"]
    assert sum(row.hits for row in wrong) <= 0.05 * sum(row.n for row in wrong)
    assert sum(row.whole for row in wrong) <= 0.05 * sum(row.n for row in wrong)


@pytest.mark.font
def test_training_scenes_with_sizes_and_lists() -> None:
    """The other categories of the grammar are read right as well."""
    chosen = [c for c in captions(400, 3) if c.category in ("size", "listing", "count")][:18]
    result = report(drawn(chosen, seed=1), chosen)
    assert sum(v.all for v in result.verdicts) >= 0.99 * len(chosen)


@pytest.mark.font
def test_soft_pictures_are_read_right(pictures: list[np.ndarray]) -> None:
    """Blur of 1.5 px changes no verdict."""
    few = slice(None, None, 3)
    result = report([blurred(1.5)(p) for p in pictures[few]], SAMPLE[few])
    assert all(result.hits())


@pytest.mark.font
def test_unknown_objects_are_refused() -> None:
    """Other emoji, discs of a glyph's mean colour, and mush are no objects of ours."""
    for name, things in unknown_objects().items():
        assert recognised(things[::6]) <= 0.1, name


@pytest.mark.font
def test_a_forced_choice_names_every_object() -> None:
    """The score beside the strict one: no object stays unknown, and known ones keep their names."""
    for things in unknown_objects().values():
        assert all(found.kind for found in read(things[0], accept=0.0).objects)
    scene = render(Scene((Sprite("car", "blue", 0.5, 0.5, 0.5),), "pink"), 128)
    assert read(scene, accept=0.0) == read(scene)


@pytest.mark.font
def test_wrong_colour_kind_count_and_side_are_seen() -> None:
    """One thing changed in a scene flips that verdict and no other."""
    sprites = (Sprite("car", "blue", 0.27, 0.5, 0.4), Sprite("cat", None, 0.75, 0.5, 0.4))
    scene = read(render(Scene(sprites, "pink"), 128))
    cat = Item("cat")

    def verdict(first: Item, relation: str = "left of", background: str = "pink"):
        return judge(scene, SceneRequest((first, cat), relation, background))

    assert verdict(Item("car", "blue")).all
    assert not verdict(Item("car", "green")).colour and verdict(Item("car", "green")).objects
    assert not verdict(Item("bus")).objects
    assert not verdict(Item("car", None, 2)).objects
    assert not verdict(Item("car"), "right of").relation and not verdict(Item("car"), "above").all
    assert not verdict(Item("car"), background="blue").background


def test_extra_objects_count_against() -> None:
    """A thing that is no kind, beside the right object, is not overlooked."""
    cat = FoundObject("cat", None, (0.1, 0.1, 0.5, 0.5), 1.4)
    thing = FoundObject(None, None, (0.6, 0.6, 0.9, 0.9), 0.5)
    request = SceneRequest((Item("cat"),))
    assert judge(FoundScene("blue", (cat,)), request).objects
    assert not judge(FoundScene("blue", (cat, thing)), request).objects


def test_components_are_exact() -> None:
    """Against flooding with a stack, on random masks."""
    rng = np.random.default_rng(0)
    for density in (0.2, 0.5, 0.8):
        mask = rng.random((23, 31)) < density
        labels = components(mask)
        assert ((labels > 0) == mask).all()
        for row, column in np.argwhere(mask)[::29]:
            assert _flood(mask, row, column) == set(
                map(tuple, np.argwhere(labels == labels[row, column]).tolist())
            )


def _flood(mask: np.ndarray, row: int, column: int) -> set[tuple[int, int]]:
    seen, stack = set(), [(int(row), int(column))]
    while stack:
        y, x = stack.pop()
        inside = 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1]
        if (y, x) in seen or not inside or not mask[y, x]:
            continue
        seen.add((y, x))
        stack += [(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return seen


def test_wilson() -> None:
    """Against the values of Wilson's formula worked by hand."""
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-3)
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-3)


@pytest.mark.font
def test_command(tmp_path, capsys, pictures: list[np.ndarray], monkeypatch) -> None:
    """Prompts are written one a line; a folder is scored into a table and grids."""
    monkeypatch.setitem(score.PROMPTS, "evaluation", lambda: SAMPLE[::5])
    for i, picture in enumerate(pictures[::5]):
        Image.fromarray(picture if i else picture[::-1].copy()).save(tmp_path / f"{i:05d}.png")
    score.main(["--pictures", str(tmp_path), "--write", str(tmp_path / "p.txt")])
    assert (tmp_path / "p.txt").read_text().splitlines() == [c.text for c in SAMPLE[::5]]
    assert "| counting |" in capsys.readouterr().out == (tmp_path / "report.md").read_text()
    assert Image.open(tmp_path / "hits.png").width > 500 and (tmp_path / "misses.png").is_file()


def test_missing_pictures(tmp_path) -> None:
    """A missing file is named; unequal numbers are refused."""
    with pytest.raises(LiDiTError, match="00000.png"):
        score.main(["--pictures", str(tmp_path)])
    with pytest.raises(LiDiTError, match="0 pictures for 1"):
        report([], SAMPLE[:1])


@pytest.mark.font
@pytest.mark.parametrize(
    "command", ["lidit_stickers.scorer.selftest", "stickers.scorer --self-test"]
)
def test_the_scorer_is_measured_by_a_command(command: str) -> None:
    """By its name of before too."""
    words = [sys.executable, "-m", *command.split(), "--every", "90"]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    for words in ("drawn, 128 px (", "under captions of other scenes: ", "other emoji 0.000"):
        assert words in ended.stdout


@pytest.mark.font
def test_grid_shape(pictures: list[np.ndarray]) -> None:
    """Rows and columns of equal cells."""
    sheet = grid(pictures[:5], ["a label"] * 5, columns=4)
    assert sheet.size == (4 * 132, 2 * 184)
