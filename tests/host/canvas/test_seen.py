"""What a user sees: help pages, languages, progress, previews, no error of ours. Host's Python."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from help_pages import LANGUAGES, SEED_CONTROL, translations
from workflow_kit import FIRST, need_llms, read

LOCALE = "Comfy.Locale"
PICTURE = "image => image.complete && image.naturalWidth > 0"
TEXTS = """() => Object.fromEntries(app.graph._nodes.map(node => [node.type, [node.getTitle(),
    ...[...(node.widgets ?? []), ...node.inputs]
        .map(part => part.label || part.localized_name || part.name)]]))"""
WATCH = """async () => {
    window.watched = { progress: 0, previews: 0 }
    const api = window.comfyAPI.api.api
    api.addEventListener("progress", () => window.watched.progress++)
    api.addEventListener("b_preview", () => window.watched.previews++)
}"""

CANCEL = """async () => {
    await app.extensionManager.command.execute("Comfy.Interrupt")
    return window.watched.progress
}"""


def test_each_help_page_opens_in_the_browser(browser, pack):
    for name in sorted(pack.classes):
        page, title = browser.help(name), translations("en")[name]["display_name"]
        page.get_by_role("heading", name=title, exact=True, level=1).wait_for(timeout=10_000)
        picture = page.locator("img").first
        picture.scroll_into_view_if_needed()
        browser.page.wait_for_function(PICTURE, arg=picture.element_handle(), timeout=10_000)
        assert page.locator("table").count() >= 1, name
    assert browser.our_errors() == []


@pytest.fixture(params=LANGUAGES)
def language(request: pytest.FixtureRequest, browser: Any) -> Iterator[str]:
    """One of the languages, on a page of its own."""
    browser.setting(LOCALE, request.param)
    browser.reload()
    try:
        yield request.param
    finally:
        browser.setting(LOCALE, "en")
        browser.reload()


def test_titles_and_inputs_are_in_the_language_in_the_browser(browser, pack, language, tmp_path):
    """But for the control below a seed, which the frontend names itself."""
    told = translations(language)
    browser.add(sorted(pack.classes))
    for name, (title, *labels) in browser.page.evaluate(TEXTS).items():
        assert title == told[name]["display_name"]
        named = {i: put["name"] for i, put in told[name]["inputs"].items() if i != SEED_CONTROL}
        assert set(named.values()) - set(labels) == set(), f"{language}: {name}"
    assert browser.cut_labels(False) == []
    page = browser.help("LiDiTLLMLoader")
    assert page.locator("h1").first.inner_text() == told["LiDiTLLMLoader"]["display_name"]
    browser.page.screenshot(path=tmp_path / f"{language}.png")


def test_progress_and_previews_are_shown_in_the_browser(browser, server):
    ui, api = read(FIRST)
    need_llms(api)
    before = set(server.get("/history"))
    browser.open(ui)
    browser.page.evaluate(WATCH)
    browser.run()
    (entry,) = server.wait_for_new(before)
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"][-1]
    watched = browser.page.evaluate("() => window.watched")
    assert watched["progress"] >= 20 and watched["previews"] >= 5, watched
    assert browser.our_errors() == []


def test_cancel_stops_within_a_step_in_the_browser(browser, server):
    """By the frontend's own command, which the button beside Run executes."""
    ui, api = read(FIRST)
    need_llms(api)
    before = set(server.get("/history"))
    browser.open(ui)
    browser.set("EmptySD3LatentImage", "width", 512)
    browser.set("EmptySD3LatentImage", "height", 512)
    browser.set("KSampler", "steps", 200)
    browser.page.evaluate(WATCH)
    browser.run()
    browser.page.wait_for_function("() => window.watched.progress >= 3", timeout=120_000)
    answered = browser.page.evaluate(CANCEL)
    (entry,) = server.wait_for_new(before)
    assert "execution_interrupted" in [kind for kind, _ in entry["status"]["messages"]]
    browser.page.wait_for_timeout(500)
    assert browser.page.evaluate("() => window.watched.progress") <= answered + 1 < 200
    assert browser.our_errors() == []
