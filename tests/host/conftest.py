"""The real ComfyUI for the tests of this folder.

They are run by the host's own Python: COMFYUI_PATH=… "$COMFYUI_PYTHON" -m pytest tests/host
(`python3 run.py test` does so for every host it finds). Under any other Python each is skipped.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PACK_NAME = "lidit"  # of the link in custom_nodes; any other would do
SHIPPED = ROOT / "lidit_core" / "weights" / "stickers.safetensors"


def find_host() -> Path | None:
    """The host's folder: COMFYUI_PATH, or the one that this Python's environment lies in."""
    given = os.environ.get("COMFYUI_PATH")
    folder = Path(given).expanduser() if given else Path(sys.prefix).parent
    is_host = (folder / "comfy").is_dir() and (folder / "main.py").is_file()
    return folder.resolve() if is_host else None


def reason_to_skip() -> str | None:
    """Why the host's tests cannot run here; None where they can."""
    if find_host() is None:
        return "needs ComfyUI: set COMFYUI_PATH to its folder, and run me with its Python"
    if importlib.util.find_spec("comfyui_frontend_package") is None:
        return f"needs ComfyUI's own Python: {sys.executable} lacks what its requirements list"
    return None


sys.path[:0] = [str(HERE / "kit"), str(HERE / "bridge")]  # of these the fixtures are made
HOST, SKIPPED = find_host(), reason_to_skip()
if SKIPPED is None:  # before the repository, whose nodes/ would hide the host's nodes.py
    sys.path.insert(0, str(HOST))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if SKIPPED is None:
        return
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=SKIPPED))


@dataclass(frozen=True)
class Host:
    """The host in this process, and its base directory."""

    path: Path
    base: Path  # models/, input/, output/ and custom_nodes/ of these tests
    version: str
    nodes: ModuleType  # the host's nodes.py: NODE_CLASS_MAPPINGS, load_custom_node


class Pack:
    """The pack as the host loaded it: `pack.LiDiTSampler`, `pack.module("host.lidit.model")`."""

    def __init__(self, name: str, classes: dict[str, type]) -> None:
        self.name = name
        self.classes = classes

    def __getattr__(self, node_id: str) -> type:
        try:
            return self.classes[node_id]
        except KeyError:
            raise AttributeError(f"the pack has no node {node_id}") from None

    def module(self, name: str) -> ModuleType:
        """A module of the pack. Not the one that `import lidit_core` would give."""
        return importlib.import_module(f"{self.name}.{name}")

    def run(self, node_id: str, **inputs: Any) -> tuple:
        """The outputs of a node, executed as the host's executor does."""
        node = self.classes[node_id].PREPARE_CLASS_CLONE(None)
        with torch.inference_mode():
            return getattr(node, node.FUNCTION)(**inputs).args


def wait_for(coroutine: Any) -> Any:
    """Its result, also where this thread has a running loop already (playwright's)."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(asyncio.run, coroutine).result()


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base directory for the tests that do not make one of their own."""
    return make_base(tmp_path_factory.mktemp("base"))


def make_base(folder: Path) -> Path:
    """A base directory whose only custom node is a link to this checkout."""
    for name in ("custom_nodes", "input", "output", "temp", "user"):
        (folder / name).mkdir()
    (folder / "custom_nodes" / PACK_NAME).symlink_to(ROOT, target_is_directory=True)
    (folder / "models" / "diffusion_models").mkdir(parents=True)
    (folder / "user" / "default").mkdir()  # whose browser greets nobody with a tutorial
    settings = json.dumps({"Comfy.TutorialCompleted": True})
    (folder / "user" / "default" / "comfy.settings.json").write_text(settings)
    if not SHIPPED.exists():  # the trained weights, once they ship, are listed by the pack itself
        save_random_checkpoint(folder / "models" / "diffusion_models" / SHIPPED.name)
    else:
        from workflow_kit import write_refiner

        write_refiner(folder / "models" / "diffusion_models")
    return folder


def save_random_checkpoint(path: Path) -> None:
    """A LI-DiT of the stickers' configuration that draws noise: enough to try the plumbing."""
    from tiny_lidit import randomise

    from lidit_core.checkpoints.lidit import save_lidit
    from lidit_core.model.dit import LiDiT
    from lidit_core.model.presets import find_preset

    config = find_preset("stickers")
    save_lidit(randomise(LiDiT(config), scale=0.02), config, path)


@pytest.fixture(scope="session")
def host(base: Path) -> Host:
    """The host's modules, on the CPU where there is no GPU, with the temporary base directory."""
    argv, sys.argv = sys.argv, ["main.py", "--base-directory", str(base)]
    if not torch.cuda.is_available():
        sys.argv.append("--cpu")
    try:
        importlib.import_module("comfy.options").enable_args_parsing()
        importlib.import_module("comfy.cli_args")
    finally:
        sys.argv = argv
    version = importlib.import_module("comfyui_version").__version__
    return Host(HOST, base, version, importlib.import_module("nodes"))


@pytest.fixture(scope="session")
def pack(host: Host) -> Pack:
    """The pack, loaded by the host's own loader."""
    return load_pack(host, host.base / "custom_nodes" / PACK_NAME)


def load_pack(host: Host, folder: Path) -> Pack:
    known = dict(host.nodes.NODE_CLASS_MAPPINGS)
    assert wait_for(host.nodes.load_custom_node(str(folder))), f"{folder} does not load; see log"
    found = host.nodes.NODE_CLASS_MAPPINGS
    ours = {name: node for name, node in found.items() if known.get(name) is not node}
    return Pack(str(folder).replace(".", "_x_"), ours)


@pytest.fixture(scope="module")
def kit(pack: Pack, host: Host, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the tests of a MODEL need, with a small random LI-DiT."""
    from model_kit import Kit, save_small

    return Kit(pack, host, save_small(tmp_path_factory.mktemp("lidit") / "small.safetensors"))


@pytest.fixture(scope="module")
def model(kit: Any) -> Any:
    """The small LI-DiT as a MODEL."""
    return kit.load()


@pytest.fixture(scope="session")
def server(base: Path) -> Iterator:
    """A running host, with previews, as users want them.

    One for all tests: it takes half a minute to start.
    """
    pytest.importorskip("websocket", reason="needs websocket-client: pip install websocket-client")
    from host_server import HostServer

    with HostServer(HOST, base, PACK_NAME, "--preview-method", "latent2rgb") as running:
        yield running


@pytest.fixture(scope="module")
def diff_kit(pack: Pack, host: Host, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from llmdiff_kit import DiffKit

    return DiffKit(pack, host, tmp_path_factory.mktemp("llmdiff"))


@pytest.fixture(scope="module")
def unet(diff_kit: Any) -> Any:
    """A small one of SD1.5's structure."""
    return diff_kit.unet()


@pytest.fixture(scope="module")
def trained(diff_kit: Any) -> Path:
    """An adapter for it, with weights everywhere."""
    return diff_kit.adapter("trained")


@pytest.fixture
def bench(pack: Pack, host: Host) -> Any:
    """What bridges are tried with: LLMs as CLIPs, and files of bridges in the host."""
    from bridge_files import Bench

    return Bench(pack, host)


@pytest.fixture
def trains(host: Host) -> None:
    """Where a model can be loaded a second time, as training through it needs."""
    from bridge_models import host_model

    if "force_deepcopy" not in inspect.signature(host_model("sd15").clone).parameters:
        pytest.skip("this host loads no model a second time")


@pytest.fixture(scope="session")
def browser(server) -> Iterator:
    """A real browser whose page is the running host's canvas."""
    pytest.importorskip("playwright", reason="needs playwright: pip install playwright")
    from host_browser import Browser, find_chromium

    if find_chromium() is None:
        pytest.skip("needs chromium or chrome on the PATH")
    with Browser(server.url) as opened:
        yield opened


@pytest.fixture
def api() -> dict[str, Any]:
    """The newcomer's workflow, as it is queued."""
    from workflow_kit import FIRST, need_llms, read

    api = read(FIRST)[1]
    need_llms(api)
    return api


@pytest.fixture
def new_notes(caplog):
    """`new_notes()`: what the pack told since it was last asked."""

    def told() -> list[str]:
        found = [r.getMessage() for r in caplog.records if "lidit" in r.name]
        caplog.clear()
        return found

    return told
