"""What the Comfy registry is told of the pack. Run: pytest tests/test_registry.py"""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import lidit_core

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
REGISTRY = ROOT / "docs" / "registry"


def field(name: str) -> str:
    (value,) = re.findall(rf'^"?{name}"? = "(.+)"$', PYPROJECT, re.M)
    return value


def test_the_metadata_is_complete():
    for name in ("PublisherId", "DisplayName", "requires-comfyui", "requires-python"):
        assert field(name)
    address = field("Repository")
    assert re.fullmatch(r"https://github\.com/[\w-]+/[\w-]+", address)
    for name in ("Documentation", "Bug Tracker", "Changelog"):
        assert field(name).startswith(address)
    assert f"github.repository == '{address.removeprefix('https://github.com/')}'" in (
        ROOT / ".github" / "workflows" / "publish.yml"
    ).read_text(encoding="utf-8")


def test_the_addresses_lead_to_files_that_are_here():
    for name in ("Documentation", "Changelog", "Icon", "Banner"):
        assert (ROOT / field(name).split("/main/", 1)[1]).is_file(), name


def test_icon_and_banner_are_what_the_script_draws():
    drawings = runpy.run_path(str(REGISTRY / "draw.py"))["DRAWINGS"]
    assert {path.name for path in REGISTRY.glob("*.svg")} == set(drawings)
    for name, draw in drawings.items():
        assert (REGISTRY / name).read_text(encoding="utf-8") == draw()


def test_the_version_is_the_same_in_what_is_cited_and_saved():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {lidit_core.__version__}\n" in citation
    files = [*ROOT.glob("workflows/*.json"), *ROOT.glob("subgraphs/*.json")]
    for file in files:
        whole = json.loads(file.read_text(encoding="utf-8"))
        inner = [graph["nodes"] for graph in whole.get("definitions", {}).get("subgraphs", [])]
        for node in [node for nodes in (whole["nodes"], *inner) for node in nodes]:
            said = node.get("properties", {})
            if said.get("cnr_id") == field("name"):
                assert said["ver"] == lidit_core.__version__, f"{file.name}: {node['type']}"
