"""The host's canvas in a real browser: headless chromium, driven through playwright."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from playwright.sync_api import Page, Playwright, Route, sync_playwright

READY = "() => window.app?.extensionManager && window.LiteGraph?.registered_node_types[%r]"
MISSING = """ui => {
    const all = [...ui.nodes, ...(ui.definitions?.subgraphs ?? []).flatMap(graph => graph.nodes)]
    const inside = new Set((ui.definitions?.subgraphs ?? []).map(graph => graph.id))
    return all.map(node => node.type)
        .filter(type => !(type in LiteGraph.registered_node_types) && !inside.has(type))
}"""
TO_API = "async () => (await app.graphToPrompt()).output"
FROM_API = """async ([api, name]) => {
    await app.loadApiJson(api, name)
    return JSON.stringify((app.rootGraph ?? app.graph).serialize())  // leaves out what is undefined
}"""
SET = """([type, name, value]) => {
    for (const node of app.graph._nodes.filter(node => node.type === type))
        node.widgets.find(widget => widget.name === name).value = value
}"""
SAVED = "() => JSON.stringify((app.rootGraph ?? app.graph).serialize())"
SETTING = "([name, value]) => app.extensionManager.setting.set(name, value)"
MODERN = "Comfy.VueNodes.Enabled"  # Nodes 2.0
DRAWN = """() => Object.fromEntries(app.graph._nodes.map(node => {
    const least = node.computeSize(), [w, h] = [0, 1].map(i => Math.max(node.size[i], least[i]))
    return [node.id, [node.pos[0], node.pos[1] - 30, w, h + 30]]
}))"""
DRAWN_MODERN = """() => {
    const ds = app.canvas.ds
    return Object.fromEntries([...document.querySelectorAll('[data-node-id]')].map(element => {
        const node = app.graph.getNodeById(element.dataset.nodeId)
        const { width, height } = element.getBoundingClientRect()
        return [node.id, [node.pos[0], node.pos[1] - 30, width / ds.scale, height / ds.scale]]
    }))
}"""
RUN = '[data-testid="queue-button"] button, button[data-testid="queue-button"]'
ALERTS = "() => [...document.querySelectorAll('.p-toast-message')].map(alert => alert.innerText)"
FIT = """() => {
    const nodes = app.graph._nodes, ds = app.canvas.ds
    const low = i => Math.min(...nodes.map(n => n.pos[i])) - 60
    const high = i => Math.max(...nodes.map(n => n.pos[i] + n.size[i])) + 40
    ds.scale = Math.min(1800 / (high(0) - low(0)), 900 / (high(1) - low(1)), 1.2)
    ds.offset[0] = 80 / ds.scale - low(0)
    ds.offset[1] = 100 / ds.scale - low(1)
    app.canvas.setDirty(true, true)
}"""


def find_chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((found for name in names if (found := shutil.which(name))), None)


def keep_local(route: Route) -> None:
    """The frontend would call servers elsewhere."""
    local = urlparse(route.request.url).hostname in ("127.0.0.1", None)
    route.continue_() if local else route.abort()


@functools.cache
def _playwright() -> Playwright:
    """The one of this process: a second one would have to run inside the first one's loop."""
    started = sync_playwright().start()
    atexit.register(started.stop)
    return started


class Browser:
    """One window on the host's canvas."""

    def __init__(self, url: str, node_id: str = "LiDiTModelLoader") -> None:
        self.url, self.node_id = url, node_id

    def __enter__(self) -> "Browser":
        self.profile = tempfile.TemporaryDirectory()
        self.context = _playwright().chromium.launch_persistent_context(
            self.profile.name,
            executable_path=find_chromium(),
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
            viewport={"width": 1920, "height": 1080},
        )
        self.context.route("**/*", keep_local)
        self.page = self._open_page()
        return self

    def __exit__(self, *_: Any) -> None:
        self.context.close()
        self.profile.cleanup()

    def _open_page(self) -> Page:
        page = self.context.new_page()
        page.goto(self.url, wait_until="domcontentloaded", timeout=120_000)
        page.wait_for_function(READY % self.node_id, timeout=180_000)
        page.wait_for_timeout(1000)
        return page

    def open(self, workflow: dict[str, Any]) -> list[str]:
        """Open a workflow on the canvas; the node types that this host does not know."""
        self.page.evaluate("ui => app.loadGraphData(ui)", workflow)
        return self.page.evaluate(MISSING, workflow)

    def to_api(self) -> dict[str, Any]:
        """The open workflow as the browser would send it to /prompt."""
        return self.page.evaluate(TO_API)

    def from_api(self, api: dict[str, Any], name: str) -> dict[str, Any]:
        """The workflow that the frontend makes of an API graph."""
        return json.loads(self.page.evaluate(FROM_API, [api, name]))

    def saved(self) -> dict[str, Any]:
        """The open workflow as the frontend would save it."""
        return json.loads(self.page.evaluate(SAVED))

    def setting(self, name: str, value: Any) -> None:
        self.page.evaluate(SETTING, [name, value])
        self.page.wait_for_timeout(500)

    def boxes(self, modern: bool) -> dict[str, list[float]]:
        """Each node's left, top, width and height on the canvas, its title included."""
        if not modern:
            return self.page.evaluate(DRAWN)
        self.page.evaluate(FIT)
        self.page.wait_for_timeout(2000)
        return self.page.evaluate(DRAWN_MODERN)

    def set(self, node_id: str, widget: str, value: Any) -> None:
        """Set a widget of all nodes of a kind in the open workflow."""
        self.page.evaluate(SET, [node_id, widget, value])

    def run(self) -> None:
        """Click the Run button."""
        self.page.locator(RUN).first.click()

    def alerts(self) -> list[str]:
        """What the frontend complains about on the screen."""
        self.page.wait_for_timeout(300)
        return self.page.evaluate(ALERTS)

    def screenshot(self, path: Path) -> None:
        """The whole workflow that is open."""
        self.page.evaluate(FIT)
        self.page.wait_for_timeout(700)
        self.page.screenshot(path=path)
