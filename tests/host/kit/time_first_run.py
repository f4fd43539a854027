"""Times the first five minutes in a browser, from an empty cache, with the package index as it is:

COMFYUI_PATH=FOLDER PYTHON_OF_COMFYUI tests/host/kit/time_first_run.py [FOLDER_FOR_PICTURES]

With --question in the folder's place it draws docs/first-run.jpg and fetches nothing.
"""

from __future__ import annotations

import io
import os
import re
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[i]) for i in (0, 1)]

from conftest import HOST, PACK_NAME, ROOT, make_base  # noqa: E402
from host_browser import FIT, Browser  # noqa: E402
from host_server import HostServer  # noqa: E402

sys.path += [str(ROOT), str(ROOT / "tests" / "kit")]

import pytest  # noqa: E402
from first_run import install_requirements  # noqa: E402
from PIL import Image  # noqa: E402
from workflow_kit import read  # noqa: E402

SHOWN = """() => app.graph._nodes.find(node => node.type === "LiDiTLLMLoader").widgets
    .map(widget => String(widget.value ?? "")).at(-1)"""
STEPS = ("fetching", "converting", "reading", "loading")
QUESTION = "--question"
SEEN = {"x": 340, "y": 60, "width": 1250, "height": 670}  # of the page, when it asks


class Clock:
    """Prints what was done and in how many seconds since the step before."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def __call__(self, what: str) -> None:
        now = time.monotonic()
        print(f"| {what} | {now - self.last:.1f} s |", flush=True)
        self.last = now


def watch(browser: Browser, server: HostServer, known: set[str], clock: Clock) -> None:
    """Tell when each step of the loader ends, and when the run does."""
    step = ""
    while not set(server.get("/history")) - known:
        found = re.match("|".join(STEPS), browser.page.evaluate(SHOWN))
        now = found.group() if found else ""
        if step and now != step:
            clock(step)
        step = now
        time.sleep(0.3)
    clock("the picture")


def main(pictures: str = "") -> None:
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        (base := Path(folder) / "base").mkdir()
        make_base(base)
        install_requirements(Path(folder) / "packages", patched)
        patched.setenv("LIDIT_CACHE", str(Path(folder) / "cache"))
        clock("requirements.txt is installed")
        with HostServer(HOST, base, PACK_NAME) as server:
            clock("ComfyUI has started")
            with Browser(server.url) as browser:
                clock("its page is open")
                browser.open(read("1_first_picture")[0])
                clock("the workflow is open")
                first_run(browser, server, clock, pictures)


def first_run(browser: Browser, server: HostServer, clock: Clock, pictures: str) -> None:
    def shot(name: str) -> None:
        if pictures == QUESTION:
            page = Image.open(io.BytesIO(browser.page.screenshot(clip=SEEN))).convert("RGB")
            picture = page.resize((876, 470), Image.Resampling.LANCZOS)
            picture.save(ROOT / "docs" / "first-run.jpg", quality=80, optimize=True)
        elif pictures:
            browser.page.screenshot(path=os.path.join(pictures, f"{name}.png"))

    browser.page.evaluate(FIT)
    browser.run()
    dialog = browser.page.locator('[role="dialog"]', has_text="Fetch SmolLM2").last
    dialog.wait_for(timeout=120_000)
    clock("Run: the question")
    shot("question")
    if pictures == QUESTION:
        return
    clock.last, known = time.monotonic(), set(server.get("/history"))
    dialog.get_by_role("button", name="Confirm").click()
    watch(browser, server, known, clock)
    shot("picture")
    clock.last, known = time.monotonic(), set(server.get("/history"))
    browser.run()
    watch(browser, server, known, clock)
    shot("second")


if __name__ == "__main__":
    main(*sys.argv[1:])
