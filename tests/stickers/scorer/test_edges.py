"""How sharp a picture is by itself. Run: pytest tests/stickers/scorer/test_edges.py"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lidit_core.checkpoints.lidit import load_vae
from lidit_core.cli import main
from lidit_core.paths import SHIPPED_WEIGHTS
from lidit_eval.items import items_of, tasks_of
from lidit_stickers.evaluation import evaluation_prompts
from lidit_stickers.judging import StickerJudge
from lidit_stickers.scenes.scenes import Scene, Sprite, render
from lidit_stickers.scorer.damage import blurred, reconstruct, strong_edges
from lidit_stickers.scorer.edges import edges_kept
from lidit_stickers.scorer.scorer import FoundObject, FoundScene, describe, read
from lidit_stickers.scorer.scorer import judge as judged
from lidit_stickers.scorer.selftest import drawn

pytestmark = pytest.mark.font

EDGES = "strong edges"
SAMPLE = evaluation_prompts()[::45]
EVERY = 120


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return drawn(SAMPLE, seed=3)


def kept(pictures: list[np.ndarray]) -> float:
    """The mean over pictures, each read as a forced choice."""
    shares = [edges_kept(picture, read(picture, 0.0)) for picture in pictures]
    return float(np.mean([share for share in shares if share is not None]))


def test_drawn_scenes_keep_their_edges_and_soft_ones_lose_them(pictures):
    """Without the drawing the share is what it is beside the drawing, within 0.04."""
    vae = load_vae(SHIPPED_WEIGHTS / "stickers-vae.safetensors")
    back = [reconstruct(vae, picture) for picture in pictures]
    soft = [blurred(0.5)(picture) for picture in pictures]
    sharp, through, blurry = kept(pictures), kept(back), kept([blurred(1.5)(p) for p in pictures])
    assert sharp > 0.96 and blurry < 0.05 and blurry + 0.3 < through < sharp - 0.04
    for altered in (back, soft):
        edges = [(strong_edges(p).sum(), strong_edges(a).sum()) for p, a in zip(pictures, altered)]
        beside = np.mean([min(1, ours / true) for true, ours in edges])
        assert kept(altered) == pytest.approx(beside, abs=0.04)


@pytest.mark.parametrize("size", [64, 128, 192])
def test_a_size_alone_changes_little(size):
    assert kept(drawn(SAMPLE[::3], size, seed=3)) > 0.93


def test_more_edges_than_the_scene_has_count_as_all():
    picture = np.zeros((128, 128, 3), np.uint8)
    picture[::2] = 255
    cat = FoundObject("cat", None, (0.2, 0.2, 0.8, 0.8), 1.0)
    assert edges_kept(picture, FoundScene("white", (cat,))) == 1.0


def test_nothing_is_told_of_what_was_not_read(pictures):
    cat = FoundObject("cat", None, (0.2, 0.2, 0.8, 0.8), 1.0)
    unknown = FoundObject(None, None, (0.2, 0.2, 0.8, 0.8), 0.1)
    for background, objects in (("white", ()), (None, (cat,)), ("blue", (unknown,))):
        assert edges_kept(pictures[0], FoundScene(background, objects)) is None
    plain = np.full((128, 128, 3), 252, np.uint8)
    (item,) = items_of("evaluation")[:1]
    verdict = StickerJudge([item]).judge(plain, item)
    assert EDGES not in verdict.scores and verdict.scores["strict"] == 0


def test_the_other_scores_are_as_they_were_and_as_fast():
    """Each is what the scorer's own parts say; the edges take a fifth of the time at most."""
    items = items_of("evaluation")[::60]
    judge = StickerJudge(items)
    scenes = drawn([item.asked for item in items])
    soft = [blurred(1.0)(picture) for picture in scenes]
    for picture, item in zip(soft, items, strict=True):
        verdict = judge.judge(picture, item)
        strict, nearest = read(picture, kinds=judge.kinds), read(picture, 0.0, judge.kinds)
        assert verdict.seen == describe(strict)
        assert set(verdict.scores) == set(judge.measures)
        for name, scene in (("strict", strict), ("nearest", nearest)):
            right = judged(scene, item.asked.request).category(item.category)
            assert verdict.scores[name] == float(right)
    found = [read(picture, 0.0) for picture in scenes]
    start = time.process_time()
    for picture, item in zip(scenes, items, strict=True):
        judge.judge(picture, item)
    middle = time.process_time()
    for picture, scene in zip(scenes, found, strict=True):
        edges_kept(picture, scene)
    assert time.process_time() - middle < 0.25 * (middle - start)


def save(folder: Path, pictures: list[np.ndarray]) -> list[str]:
    """The words that judge pictures of every EVERYth prompt."""
    folder.mkdir()
    for task, picture in zip(tasks_of(items_of("evaluation"), 0, 1, EVERY), pictures, strict=True):
        Image.fromarray(picture).save(folder / task.name(1))
    return ["eval", "--pictures", str(folder), "--every", str(EVERY)]


def test_it_is_reported_and_compared_in_pairs(tmp_path, capsys):
    scenes = drawn([task.item.asked for task in tasks_of(items_of("evaluation"), 0, 1, EVERY)])
    sharp = save(tmp_path / "sharp", scenes)
    soft = save(tmp_path / "soft", [blurred(1.5)(scene) for scene in scenes])
    assert main([*sharp, "--out", str(tmp_path / "a")]) == 0
    assert main([*soft, "--out", str(tmp_path / "b"), "--against", str(tmp_path / "a")]) == 0
    last = json.loads((tmp_path / "b" / "report.json").read_text())["scores"][-1]
    assert (last["category"], last["measure"]) == ("all", EDGES) and last["score"] < 0.05
    assert f"| {EDGES} | 95 % |" in (tmp_path / "b" / "report.md").read_text()
    against = (tmp_path / "b" / "against.md").read_text()
    assert f"| all | {EDGES} | 9 | 0.9" in against and "| all | strict | 9 |" in against


def test_verdicts_of_before_are_read_on(tmp_path, capsys):
    """Their report is what it was, and pairs with them leave the measure out."""
    scenes = drawn([task.item.asked for task in tasks_of(items_of("evaluation"), 0, 1, EVERY)])
    words = save(tmp_path / "sharp", scenes)
    old, new = tmp_path / "old", tmp_path / "new"
    assert main([*words, "--out", str(old)]) == 0
    lines = [json.loads(line) for line in (old / "verdicts.jsonl").read_text().splitlines()]
    for line in lines:
        del line["scores"][EDGES]
    before = "".join(json.dumps(line) + "\n" for line in lines)
    (old / "verdicts.jsonl").write_text(before)
    assert main([*words, "--out", str(old)]) == 0
    assert (old / "verdicts.jsonl").read_text() == before
    report = (old / "report.md").read_text()
    assert EDGES not in report and "| strict | 95 % | nearest | 95 % | facts, strict |" in report
    assert main([*words, "--out", str(new), "--against", str(old)]) == 0
    against = (new / "against.md").read_text()
    assert EDGES not in against and "| all | strict | 9 | 1.000 | 1.000 |" in against


def test_some_verdicts_of_before_are_left_out_of_the_mean(tmp_path, capsys):
    scenes = drawn([task.item.asked for task in tasks_of(items_of("evaluation"), 0, 1, EVERY)])
    words = save(tmp_path / "sharp", scenes)
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    path = tmp_path / "out" / "verdicts.jsonl"
    first, *rest = [json.loads(line) for line in path.read_text().splitlines()]
    del first["scores"][EDGES]
    path.write_text("".join(json.dumps(line) + "\n" for line in (first, *rest)))
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    scores = json.loads((tmp_path / "out" / "report.json").read_text())["scores"]
    counted = {s["measure"]: s["prompts"] for s in scores if s["category"] == "all"}
    assert counted[EDGES] == 8 and counted["strict"] == 9


def test_a_scene_is_drawn_anew_where_it_was():
    scene = Scene((Sprite("car", "blue", 0.3, 0.5, 0.4),), "pink")
    picture = render(scene, 128)
    assert 0.9 < edges_kept(picture, read(picture, 0.0)) <= 1
