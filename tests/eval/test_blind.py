"""`lidit blind`: a page, and what it counts. Run: pytest tests/eval/test_blind.py"""

from __future__ import annotations

import base64
import json
import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lidit_core.cli import main
from lidit_eval.statistics import wilson

PROMPTS = 12
EVERY = 90


@pytest.fixture
def evaluations(tmp_path, monkeypatch) -> Path:
    """Two evaluations of pictures made elsewhere, whose metadata names their model."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("before", "after")):
        (tmp_path / f"{name}-pictures").mkdir()
        for n in range(0, PROMPTS * EVERY, EVERY):
            pixels = np.full((8, 8, 3), 20 * number + n // EVERY, np.uint8)
            told = PngInfo()
            told.add_text("lidit", json.dumps({"model": f"secret {name}"}))
            Image.fromarray(pixels).save(f"{name}-pictures/{n:05d}.png", pnginfo=told)
        words = ["--prompts", "evaluation", "--every", str(EVERY), "--judge", "none"]
        assert main(["eval", *words, "--pictures", f"{name}-pictures", "--out", name]) == 0
    return tmp_path


def data_of(page: Path) -> dict:
    return json.loads(re.search(r"const data = (\{.*\});", page.read_text())[1])


def level(picture: str) -> int:
    """The grey of an embedded picture: 0 to 11 before, 20 to 31 after."""
    with Image.open(BytesIO(base64.b64decode(picture.partition(",")[2]))) as opened:
        assert not opened.info.get("lidit")
        return opened.getpixel((0, 0))[0]


def test_a_page_has_every_pair_once_with_sides_as_told(evaluations, capsys):
    assert main(["blind", "before", "after", "--out", "blind.html"]) == 0
    assert f"{PROMPTS} pairs in blind.html" in capsys.readouterr().out
    data = data_of(Path("blind.html"))
    assert data["names"] == ["before", "after"] and len(data["trials"]) == PROMPTS
    seen = []
    for trial in data["trials"]:
        left, right = level(trial["left"]), level(trial["right"])
        first, second = (right, left) if trial["swapped"] else (left, right)
        assert second - first == 20
        seen.append(first)
    assert sorted(seen) == list(range(PROMPTS)) and seen != sorted(seen)
    assert 0 < sum(trial["swapped"] for trial in data["trials"]) < PROMPTS
    text = Path("blind.html").read_text()
    assert "secret" not in text and not re.search(r"(src|href)=\"?http", text)


@pytest.mark.parametrize(
    ("models", "names"),
    [
        (("stickers (1)", "stickers-duo (2)"), ["stickers (1)", "stickers-duo (2)"]),
        (("stickers (1)", "stickers (1)"), ["a/out", "b/out"]),
        (("stickers (1)", None), ["a/out", "b/out"]),
        ((None, None), ["a/out", "b/out"]),
    ],
)
def test_two_folders_of_one_name_are_told_apart(evaluations, models, names):
    for folder, model, place in zip(("before", "after"), models, "ab"):
        record = json.loads(Path(folder, "evaluation.json").read_text())
        told = {"model": model} if model else {}
        Path(folder, "evaluation.json").write_text(json.dumps({**record, **told}))
        Path(place).mkdir()
        Path(folder).rename(Path(place, "out"))
    assert main(["blind", "a/out", "b/out", "--out", "blind.html"]) == 0
    assert data_of(Path("blind.html"))["names"] == names


def test_a_folder_is_told_from_one_in_it(evaluations):
    Path("after").rename("before/before")
    assert main(["blind", "before", "before/before", "--out", "blind.html"]) == 0
    first, second = data_of(Path("blind.html"))["names"]
    assert second == "before/before" and first != second and first.endswith("/before")


@pytest.mark.font
def test_the_heading_of_pairs_tells_the_other_folder(evaluations, tmp_path):
    words = ["--prompts", "evaluation", "--every", str(EVERY), "--judge", "stickers"]
    words += ["--pictures", "before-pictures"]
    for out in ("a/out", "b/out"):
        against = ["--against", "a/out"] if out == "b/out" else []
        assert main(["eval", *words, "--out", out, *against]) == 0
    assert Path("b/out/against.md").read_text().startswith("\n# Against a/out\n")


def test_the_seed_decides_and_the_count_spreads(evaluations):
    for out, *words in (["a"], ["b"], ["c", "--seed", "1"], ["d", "--count", "4"]):
        assert main(["blind", "before", "after", "--out", f"{out}.html", *words]) == 0
    pages = {name: Path(f"{name}.html").read_text() for name in "abc"}
    assert pages["a"] == pages["b"] != pages["c"]
    few = [level(t["right" if t["swapped"] else "left"]) for t in data_of(Path("d.html"))["trials"]]
    assert sorted(few) == [0, 3, 6, 9]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["before", "nowhere"], "nowhere holds no evaluation"),
        (["before", "other"], "expected two evaluations of the same prompts"),
        (["before", "after", "--count", "0"], "--count is 0"),
        (["before", "../{}/before", "--seed", "1"], "are one folder; expected two evaluations"),
    ],
)
def test_a_mistake_is_one_sentence(evaluations, words, told, capsys):
    record = json.loads(Path("after/evaluation.json").read_text())
    Path("other").mkdir()
    Path("other/evaluation.json").write_text(json.dumps({**record, "prompts_sha256": "x"}))
    words = [word.format(evaluations.name) for word in words]
    assert main(["blind", *words, "--out", "blind.html"]) == 2
    assert told in capsys.readouterr().err
    assert not Path("blind.html").exists()


def test_pictures_that_are_elsewhere_are_told(evaluations, capsys, monkeypatch):
    """Evaluations of --pictures know these by the path that was typed."""
    (evaluations / "below").mkdir()
    monkeypatch.chdir(evaluations / "below")
    assert main(["blind", "../before", "../after", "--out", "blind.html"]) == 2
    told = capsys.readouterr().err
    assert "in before-pictures and after-pictures, as seen from where lidit eval" in told


def test_a_browser_counts_keeps_and_saves_the_choices(evaluations, tmp_path):
    """In Chromium: keys, clicks, going back, a page that is closed and opened, the saved file."""
    sync = pytest.importorskip("playwright.sync_api")
    assert main(["blind", "before", "after", "--out", "blind.html"]) == 0
    trials = data_of(Path("blind.html"))["trials"]
    after = ["left" if trial["swapped"] else "right" for trial in trials]
    before = ["right" if trial["swapped"] else "left" for trial in trials]
    wanted = [*after[:8], *before[8:10], "same", "same"]
    keys = {"left": "ArrowLeft", "right": "ArrowRight", "same": " "}
    with sync.sync_playwright() as playwright:
        browser = launched(playwright)
        page = browser.new_page()
        page.goto((tmp_path / "blind.html").as_uri())
        assert page.inner_text("#prompt") == trials[0]["prompt"]
        assert "before" not in page.inner_text("body") and "after" not in page.inner_text("body")
        page.keyboard.press(keys[before[0]])
        page.click("#back")
        for side in wanted[:5]:
            page.keyboard.press(keys[side])
        page.reload()
        assert page.inner_text("#count") == f"6 of {PROMPTS}"
        for side in wanted[5:]:
            page.click(f"#{side}")
        low, high = wilson(2, 10)
        told = page.inner_text("#verdict")
        assert told.startswith("before was preferred in 20.0 %")
        assert f"{100 * low:.1f} % to {100 * high:.1f} %" in told
        with page.expect_download() as download:
            page.click("#save")
        saved = json.loads(Path(download.value.path()).read_text())
        browser.close()
    assert (saved["first"], saved["second"], saved["same"]) == (2, 8, 2)
    assert (saved["low"], saved["high"]) == pytest.approx((low, high))
    assert [c["chosen"] for c in saved["choices"]] == ["after"] * 8 + ["before"] * 2 + [None] * 2


def launched(playwright):
    """Chromium as Playwright or the system has it."""
    import shutil

    found = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        options = {"executable_path": found} if found else {}
        return playwright.chromium.launch(args=["--no-sandbox"], **options)
    except Exception as error:
        pytest.skip(f"no Chromium can be started ({str(error).splitlines()[0]})")
