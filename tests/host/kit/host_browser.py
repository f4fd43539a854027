"""The host's canvas in a real browser: headless chromium, driven through playwright."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import ConsoleMessage, Locator, Page, Playwright, sync_playwright

# the frontend would call servers elsewhere; a route of playwright's would hold back each request,
# the one to /prompt too, until a test calls it again
KEEP_LOCAL = ("--no-proxy-server", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
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
LABELS = """() => {  // of a node: its title, and its widgets' names where the canvas writes them
    const shown = node => (node.widgets ?? []).filter(widget => !widget.hidden && !widget.element
        && !widget.options?.hidden && !widget.component
        && !(widget.advanced ?? widget.options?.advanced) && widget.type !== "button")
    const pen = CanvasRenderingContext2D.prototype, fillText = pen.fillText
    let written = new Set()
    pen.fillText = function (text, ...rest) {
        written.add(text)
        return fillText.call(this, text, ...rest)
    }
    app.canvas.ds.scale = 1
    app.canvas.draw(true, true)
    try {
        return app.graph._nodes.flatMap(node => {
            written = new Set()
            app.canvas.drawNode(node, app.canvas.ctx)
            const labels = shown(node).map(widget => widget.label || widget.name)
            return [node.getTitle(), ...labels].filter(label => !written.has(label))
                .map(label => `${node.id} ${node.getTitle()}: ${label}`)
        })
    } finally {
        pen.fillText = fillText
    }
}"""
LABELS_MODERN = """() => {  // the same where a node is made of elements, whose text ends in dots
    const narrow = element => element.scrollWidth > element.clientWidth + 1
        && getComputedStyle(element).textOverflow === "ellipsis"
    return [...document.querySelectorAll("[data-node-id]")].flatMap(element => {
        const node = app.graph.getNodeById(element.dataset.nodeId)
        const labels = new Set([node.getTitle(),
            ...[...(node.widgets ?? []), ...node.inputs, ...node.outputs]
                .map(part => part.label || part.localized_name || part.name)])
        return [...element.querySelectorAll("*")].filter(narrow)
            .map(part => part.textContent.trim()).filter(text => labels.has(text))
            .map(label => `${node.id} ${node.getTitle()}: ${label}`)
    })
}"""
ADD = """types => {
    app.graph.clear()
    types.forEach((type, i) => {
        const node = LiteGraph.createNode(type)
        app.graph.add(node)
        node.pos = [(i % 5) * 460, Math.floor(i / 5) * 640]
    })
}"""
SELECT = """() => {
    app.canvas.deselectAll()
    app.canvas.ds.scale = 1
    app.canvas.ds.offset = [600, 300]
    app.canvas.selectNode(app.graph._nodes[0])
    app.canvas.setDirty(true, true)
}"""
TELL = """([ids, text]) => ids.forEach(
    nodeId => app.api.dispatchCustomEvent('progress_text', { nodeId, text }))"""
TOLD = """() => Object.fromEntries(app.graph._nodes.flatMap(node => (node.widgets ?? [])
    .filter(widget => widget.name === "$$node-text-preview" && widget.value)
    .map(widget => [node.id, widget.value])))"""
OURS = "/extensions/lidit/"  # in the address of what the pack serves
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
        self.fitted = False  # whether all nodes of what is open are on the screen

    def __enter__(self) -> "Browser":
        self.profile = tempfile.TemporaryDirectory()
        self.context = _playwright().chromium.launch_persistent_context(
            self.profile.name,
            executable_path=find_chromium(),
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", *KEEP_LOCAL],
            viewport={"width": 1920, "height": 1080},
        )
        self.page = self._open_page()
        return self

    def __exit__(self, *_: Any) -> None:
        self.context.close()
        self.profile.cleanup()

    def _open_page(self) -> Page:
        page = self.context.new_page()
        self.errors: list[str] = []  # of the console, with their sources
        page.on("console", lambda said: said.type == "error" and self._note(said))
        page.on("pageerror", lambda error: self.errors.append(f"{error} {error.stack}"))
        page.goto(self.url, wait_until="domcontentloaded", timeout=120_000)
        page.wait_for_function(READY % self.node_id, timeout=180_000)
        page.wait_for_timeout(1000)
        return page

    def _note(self, said: ConsoleMessage) -> None:
        self.errors.append(f"{said.text} {said.location.get('url', '')}")

    def reload(self) -> None:
        """The page anew, as after a change of language."""
        self.fitted = False
        self.page.close()
        self.page = self._open_page()

    def open(self, workflow: dict[str, Any]) -> list[str]:
        """Open a workflow on the canvas; the node types that this host does not know."""
        self.fitted = False
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
        self.fitted = False
        self.page.evaluate(SETTING, [name, value])
        self.page.wait_for_timeout(500)

    def boxes(self, modern: bool) -> dict[str, list[float]]:
        """Each node's left, top, width and height on the canvas, its title included."""
        if not modern:
            return self.page.evaluate(DRAWN)
        self._fit()
        return self.page.evaluate(DRAWN_MODERN)

    def _fit(self) -> None:
        """All nodes on the screen, as only those that can be seen are made of elements."""
        if not self.fitted:
            self.page.evaluate(FIT)
            self.page.wait_for_timeout(2000)
            self.fitted = True

    def told(self) -> dict[str, str]:
        """What stands below the widgets of each node that tells something."""
        return self.page.evaluate(TOLD)

    def tell(self, nodes: list[int], text: str) -> None:
        """Have these nodes tell something, as if the host had sent it."""
        self.page.evaluate(TELL, [[str(node) for node in nodes], text])
        self.page.wait_for_timeout(500)

    def add(self, types: list[str]) -> None:
        """An empty canvas with one new node of each type, as wide as the frontend makes it."""
        self.fitted = False
        self.page.evaluate(ADD, types)
        self.page.wait_for_timeout(500)

    def cut_labels(self, modern: bool) -> list[str]:
        """Titles and names of inputs that are not written whole, each with its node."""
        if not modern:
            return self.page.evaluate(LABELS)
        self._fit()
        return self.page.evaluate(LABELS_MODERN)

    def help(self, node_type: str) -> Locator:
        """The help page of a new node, opened by the button that stands above it."""
        self.add([node_type])
        self.page.evaluate(SELECT)
        self.page.get_by_test_id("info-button").first.click()
        page = self.page.locator(".node-help-content").first
        page.locator("h1").first.wait_for(timeout=20_000)
        return page

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

    def our_errors(self) -> list[str]:
        """The console's errors that come from the pack's scripts, or are about its files."""
        return [said for said in self.errors if OURS in said or "LI-DiT" in said]

    def screenshot(self, path: Path) -> None:
        """The whole workflow that is open."""
        self.page.evaluate(FIT)
        self.page.wait_for_timeout(700)
        self.page.screenshot(path=path)
