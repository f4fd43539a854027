"""The first workflow as an app: a prompt, a seed, Run, and the picture. Run: see conftest.py"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from workflow_kit import FIRST, is_picture, need_llms, node_of, read, saving

TOGGLE = "() => app.extensionManager.command.execute('Comfy.ToggleLinear')"
RUN = "button:has([data-testid=linear-run-button-icon])"
SHOWN = """name => [...document.querySelectorAll("img")]
    .some(image => image.src.includes(name) && image.naturalWidth && image.clientWidth >= 128)"""
PROMPT = "a green frog on a yellow background"
SEED = 12


@pytest.fixture
def app(browser: Any, host: Any) -> Iterator[Any]:
    """The page with the first workflow in app mode."""
    if host.version.startswith("0.3."):
        pytest.skip("this host's frontend has no app mode")
    ui, api = read(FIRST)
    need_llms(api)
    browser.open(ui)
    browser.page.evaluate(TOGGLE)
    browser.page.wait_for_timeout(2000)
    tour = browser.page.get_by_role("button", name="Skip")  # which the frontend offers once
    if tour.count():
        tour.click()
    try:
        yield browser.page
    finally:
        browser.page.evaluate(TOGGLE)


def test_the_first_draws_as_an_app_in_the_browser(app, browser, server, tmp_path):
    asked = app.get_by_test_id("linear-widgets")
    assert asked.get_by_test_id("builder-widget-label").all_inner_texts() == ["text", "seed"]
    asked.locator("textarea").fill(PROMPT)
    asked.get_by_label("seed").locator("input").fill(str(SEED))
    app.keyboard.press("Tab")
    app.screenshot(path=tmp_path / "asked.png")
    before = set(server.get("/history"))
    app.locator(RUN).click()
    (entry,) = server.wait_for_new(before)
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"][-1]
    queued = entry["prompt"][2]
    sampler = queued[node_of(queued, "KSampler")]["inputs"]
    assert sampler["seed"] == SEED and queued[sampler["positive"][0]]["inputs"]["text"] == PROMPT
    (saved,) = saving(queued)
    (image,) = entry["outputs"][saved]["images"]
    assert is_picture(server.picture(image))
    app.wait_for_function(SHOWN, arg=image["filename"], timeout=30_000)
    app.screenshot(path=tmp_path / "drawn.png")
    assert browser.alerts() == []
