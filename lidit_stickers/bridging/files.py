"""The file of a bridge's ridge alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from lidit_core.bridge.file import LoadedBridge, load_bridge, write_bridge
from lidit_core.bridge.model import Bridge


def write_ridge(whole: Path, path: Path) -> None:
    """Write a bridge's base alone, without what it has learnt beside it."""
    loaded = load_bridge(whole)
    bridge = Bridge(replace(loaded.bridge.config, residual="none"))
    known = loaded.bridge.state_dict()
    bridge.load_state_dict({name: known[name] for name in bridge.state_dict()})
    told = json.loads(loaded.report or "{}")
    report = json.dumps({"bridge": told["ridge"]}) if "ridge" in told else ""
    write_bridge(path, LoadedBridge(bridge.eval(), loaded.rows, loaded.empty, report))
