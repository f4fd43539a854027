"""What happens when a fresh host loads the pack, as JSON. Run by the host's Python:

    python tests/host/kit/load_probe.py HOST_FOLDER PACK_FOLDER [--without-transformers] [--schema]

With --schema it also writes tests/host/kit/schema.json: for when a change of the nodes is meant.
With --base-directory=FOLDER the host has its models and all other files there.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import re
import sys
import time
import warnings
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

OF_FILES = (
    *("llm", "template", "preset", "model_name", "refiner_name", "adapter_name", "file", "prompts"),
    *("sampler_name", "scheduler", "bridge_name", "recording", "add_to"),
)
SNAPSHOT = Path(__file__).with_name("schema.json")


class Sentry(MetaPathFinder):
    """Notes who asks for transformers, and may decline."""

    def __init__(self, decline: bool) -> None:
        self.decline = decline
        self.asked: list[str] = []

    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        if name.split(".")[0] == "transformers":
            self.asked.append(name)
            if self.decline:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)


class Listener(logging.Handler):
    """Keeps what is logged as a warning or worse."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(record.getMessage())


def forget_transformers() -> None:
    """The host has imported it for encoders of its own."""
    for name in [n for n in sys.modules if n.split(".")[0] == "transformers"]:
        del sys.modules[name]


def started_host(folder: str, *more: str) -> Any:
    """The host's nodes module, as its server has it when custom nodes are loaded.

    Args:
        more: of the host's command line.
    """
    sys.path[0] = folder  # in place of this folder
    sys.argv = ["main.py", "--cpu", *more]
    import comfy.options

    comfy.options.enable_args_parsing()
    import nodes

    sys.path.insert(0, str(Path(folder) / "comfy"))  # as init_external_custom_nodes does
    return nodes


def choices(name: str, spec: tuple) -> str:
    """An input's type; of a combo also what it offers, but for files, which each machine has."""
    if spec[0] != "COMBO" and not isinstance(spec[0], list):
        return spec[0]
    options = spec[0] if isinstance(spec[0], list) else spec[1]["options"]
    return "COMBO" if name in OF_FILES else f"COMBO: {', '.join(map(str, options))}"


def plain(node: type) -> dict[str, Any]:
    """The frozen part of a node: what saved workflows rely on, in order."""
    info = node.GET_NODE_INFO_V1()
    inputs = [
        [name, choices(name, spec), kind]
        for kind in ("required", "optional")
        for name, spec in info["input"].get(kind, {}).items()
    ]
    return {
        "inputs": inputs,
        "outputs": [list(o) for o in zip(info["output"], info["output_name"])],
    }


def without_tooltip(node: type) -> list[str]:
    """Inputs and outputs that explain nothing."""
    schema = node.GET_SCHEMA()
    puts = [*schema.inputs, *schema.outputs]
    return [str(getattr(p, "display_name", None) or p.id) for p in puts if not p.tooltip]


def words(node: type) -> list[str]:
    """What the host's search looks through; no aliases where the host knows none."""
    schema = node.GET_SCHEMA()
    return [schema.node_id, schema.display_name, *getattr(schema, "search_aliases", [])]


def probe(host: str, pack: str, decline: bool, *more: str) -> dict[str, Any]:
    nodes = started_host(host, *more)
    forget_transformers()
    known = dict(nodes.NODE_CLASS_MAPPINGS)
    sentry, listener = Sentry(decline), Listener()
    sys.meta_path.insert(0, sentry)
    logging.getLogger().addHandler(listener)
    gc.collect()  # a round over all of the host's objects would be counted as ours
    path, begin = list(sys.path), time.process_time()  # a busy machine must not count
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        loaded = asyncio.run(nodes.load_custom_node(pack))
        seconds = time.process_time() - begin
    ours = {k: v for k, v in nodes.NODE_CLASS_MAPPINGS.items() if known.get(k) is not v}
    return {
        "loaded": loaded,
        "seconds": seconds,
        "warnings": listener.heard + [str(w.message) for w in warned],
        "transformers": sentry.asked,
        "path_changes": sorted(set(sys.path) ^ set(path)),
        "path_same": sys.path == path,
        "schema": {name: plain(node) for name, node in ours.items()},
        "silent": {name: without_tooltip(node) for name, node in ours.items()},
        "categories": {name: node.GET_SCHEMA().category for name, node in ours.items()},
        "descriptions": {name: node.GET_SCHEMA().description for name, node in ours.items()},
        "found_by": {name: words(node) for name, node in ours.items()},
    }


def schema_text(schema: dict[str, Any]) -> str:
    """One line an input or output, so that a change is seen at a glance."""
    whole = json.dumps(schema, indent=1)
    return re.sub(r"\[\n\s+([^\[\]]+?)\n\s+\]", lambda m: f"[{_one_line(m[1])}]", whole) + "\n"


def _one_line(text: str) -> str:
    return re.sub(r"\n\s+", " ", text)


def main(host: str, pack: str, *options: str) -> None:
    more = [option for option in options if option.startswith("--base-directory=")]
    result = probe(host, pack, "--without-transformers" in options, *more)
    if "--schema" in options:
        SNAPSHOT.write_text(schema_text(result["schema"]))
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
