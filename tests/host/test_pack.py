"""The pack as the host loads it, and what saved workflows rely on. Run: see conftest.py"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
from conftest import HERE, HOST, PACK_NAME, ROOT, load_pack
from load_probe import SNAPSHOT

NODES = {
    "LiDiTLLMLoader",
    "LiDiTLLMFromCLIP",
    "LiDiTExpandPrompt",
    "LiDiTInstructionTemplate",
    "LiDiTTextEncode",
    "LiDiTLinguisticTokenRefiner",
    "LiDiTCollaborativeRefiner",
    "LiDiTModelLoader",
    "LiDiTRefinerLoader",
    "LiDiTSampler",
    "LiDiTReadingGrid",
    "LiDiTLabelledGrid",
    "LLMDiffDemoCheckpoint",
    "LLMDiffEncode",
    "LLMDiffApply",
    "LiDiTSaveConditioning",
    "LiDiTLoadConditioning",
    "LiDiTRecordConditioning",
    "LiDiTBridgeLoader",
    "LiDiTBridge",
    "LiDiTTrainBridge",
    "LiDiTAttentionMaps",
    "LiDiTInspectRefiners",
    "LiDiTContinuePrompt",
}
FASTEST_OF = 8  # loads; a busy machine's slow ones say nothing about the pack


def probed(pack: Path, *options: str) -> dict:
    """What `load_probe.py` tells of a fresh host."""
    words = [sys.executable, HERE / "kit" / "load_probe.py", HOST, pack, *options]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    result = subprocess.run(words, capture_output=True, text=True, timeout=300, env=environment)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def unpack(folder: Path) -> None:
    """The pack as it is published, and as it comes out of a zip: without .comfyignore's folders."""
    listed = (ROOT / ".comfyignore").read_text(encoding="utf-8").split()
    left_out = {name.strip("/") for name in listed} | {".git"}

    def skipped(where: str, names: list[str]) -> set[str]:
        return {"__pycache__"} | (left_out if Path(where) == ROOT else set())

    shutil.copytree(ROOT, folder, ignore=skipped)


@pytest.fixture(scope="module")
def user(tmp_path_factory) -> Path:
    """A user's base directory, with nothing in it but the unpacked pack.

    Its name is no identifier: spaces, dashes, dots, brackets.
    """
    base = tmp_path_factory.mktemp("base of a user")
    unpack(base / "custom_nodes" / "LI-DiT pack-1.0 (copy).x")
    return base


@pytest.fixture(scope="module")
def load(user) -> dict:
    (folder,) = (user / "custom_nodes").iterdir()
    return probed(folder, f"--base-directory={user}")


@pytest.fixture(scope="module")
def load_without_transformers(base) -> dict:
    return probed(base / "custom_nodes" / PACK_NAME, "--without-transformers")


def test_it_loads_without_a_warning_under_any_folder_name(load):
    assert load["loaded"] and load["warnings"] == []
    assert set(load["schema"]) == NODES


def test_when_its_folder_is_removed_no_file_is_left(load, user):
    """But for the empty folders that files of models go into."""
    kinds = {"llm", "llm_templates", "llmdiff", "conditioning", "bridges"}
    assert load["loaded"] and {path.name for path in (user / "models").iterdir()} >= kinds
    left = [path for path in user.rglob("*") if path.is_file() and "custom_nodes" not in path.parts]
    assert left == []


def test_it_loads_fast(load, load_without_transformers, base):
    seconds = [load["seconds"], load_without_transformers["seconds"]]
    while min(seconds) >= 0.3 and len(seconds) < FASTEST_OF:
        seconds.append(probed(base / "custom_nodes" / PACK_NAME)["seconds"])
    assert min(seconds) < 0.3, seconds


def test_it_loads_without_asking_for_transformers(load, load_without_transformers):
    assert load["transformers"] == []
    assert load_without_transformers["loaded"] and load_without_transformers["warnings"] == []
    assert load_without_transformers["transformers"] == []
    assert set(load_without_transformers["schema"]) == NODES


def test_the_module_search_path_stays_as_it_was(load):
    assert load["path_same"], load["path_changes"]


def test_saved_workflows_still_fit(load):
    """Names, types, order and choices are frozen: new ones may only be appended (F27).

    When a change is meant, write the snapshot anew: see load_probe.py.
    """
    assert load["schema"] == json.loads(SNAPSHOT.read_text())


def test_every_input_and_output_explains_itself(load):
    assert load["silent"] == {name: [] for name in NODES}
    assert all(load["descriptions"].values())
    assert {category.split("/")[0] for category in load["categories"].values()} == {"LI-DiT"}


@pytest.mark.parametrize("query", ["adapter", "SmolLM", "text encoder", "LLM 加载", "refiner"])
def test_the_search_finds_a_node_by_what_newcomers_type(load, query):
    """On a host that knows no aliases the names alone have to do, and the pack loads."""
    words = [word.lower() for found in load["found_by"].values() for word in found]
    if len(words) == 2 * len(NODES):
        pytest.skip("this host's search knows no aliases")
    assert any(query.lower() in word for word in words)


def test_a_field_that_no_host_knows_is_an_error_and_not_dropped(pack):
    schema = pack.module("nodes.schema").schema
    with pytest.raises(TypeError, match="serch_aliases"):
        schema("alias", node_id="x", inputs=[], serch_aliases=["y"])
    with pytest.raises(KeyError, match="dtyp"):
        schema("alias", "dtyp", node_id="x", inputs=[])


def test_a_second_copy_of_the_pack_is_told(pack, host, caplog, tmp_path):
    """As an update that was unpacked beside the former folder leaves it."""
    known, ours = dict(host.nodes.NODE_CLASS_MAPPINGS), Path(pack.name).name
    second = tmp_path / "LI-DiT-main"
    second.symlink_to(ROOT, target_is_directory=True)
    try:
        load_pack(host, second)
        (told,) = [r.getMessage() for r in caplog.records if "installed twice" in r.getMessage()]
        assert str(second) in told and f"/{ours} and" in told and "remove the older" in told
        caplog.clear()
        load_pack(host, second)  # anew, as packs that reload packs do
        assert "installed twice" not in caplog.text
    finally:
        host.nodes.NODE_CLASS_MAPPINGS.clear()
        host.nodes.NODE_CLASS_MAPPINGS.update(known)


def test_imports_of_the_pack_are_relative():
    """Under the host its parts have other names; `nodes` and `server` are the host's."""
    pattern = re.compile(r"^\s*(?:from|import) (lidit_\w+|host)\b", re.M)
    assert not files_with(pattern, but=["fetch.py"])  # which is a plain script too


def files_with(pattern: re.Pattern[str], but: list[str]) -> list[str]:
    """The names of the pack's files that hold what matches."""
    rooms = [(ROOT / room).rglob("*.py") for room in ("nodes", "host", "lidit_core")]
    files = [ROOT / "__init__.py", *itertools.chain(*rooms)]
    assert len(files) > 10 * len(NODES) and {*but} <= {file.name for file in files}
    found = [file.name for file in files if pattern.search(file.read_text(encoding="utf-8"))]
    return [name for name in found if name not in but]


@pytest.mark.parametrize(
    ("others", "but"),
    [
        (r"unload_all_models|cleanup_models\(|\bsoft_empty_cache", []),  # others' models in memory
        (r"\bsys\.path\b", ["fetch.py"]),  # others' modules
        (r"trust_remote_code=(?!False)|\btorch\.load\(|\bpickle\b", []),  # others' code
        (r"(?<![.\w])(eval|exec|__import__)\(", []),  # what stands in a graph or a file, as code
        (r"\.cuda\(|\.to\([\"']cuda", []),  # a device that the host did not choose
    ],
    ids=["memory", "path", "code", "text", "device"],
)
def test_the_pack_leaves_alone_what_is_others(others, but):
    assert not files_with(re.compile(others), but)


def test_the_server_lists_the_pack_and_no_complaint(server):
    times = re.findall(r"([\d.]+) seconds( \(IMPORT FAILED\))?: (\S+)", server.log)
    ours = [(failed, Path(folder).name) for _, failed, folder in times]
    assert ours == [("", PACK_NAME)]
    known = server.get("/object_info")
    assert set(known) >= NODES
    asked = known["LiDiTLLMLoader"]["input"]["required"]
    folded = [name for name, (_, options) in asked.items() if options.get("advanced")]
    assert folded == ["token_budget", "dtype", "device"]


def test_the_host_reads_who_publishes_the_pack_and_what_it_needs(host):
    from comfy_config.config_parser import extract_node_configuration

    told = extract_node_configuration(str(ROOT))
    project, comfy = told.project, told.tool_comfy
    assert (comfy.publisher_id, comfy.display_name, project.name) == ("lidit", "LI-DiT", "lidit")
    assert project.supported_comfyui_version == ">=0.3.64"
    assert project.urls.repository and comfy.icon.endswith(".svg")


def test_the_host_brings_what_the_pack_does_not_ask_for():
    """Nothing of pyproject.toml's `standalone` is installed beside ComfyUI."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (listed,) = re.findall(r"^standalone = \[(.*?)\]", project, re.M | re.S)
    needed = set(re.findall(r'"([\w-]+)', listed))
    asked = re.findall(r"^([\w-]+)", (HOST / "requirements.txt").read_text(), re.M)
    torch_brings = re.findall(r"^[\w-]+", "\n".join(requires("torch") or ()), re.M)
    assert {"torch", "einops", "scipy"} <= needed <= {*asked, *torch_brings}
