"""Every node of the host that takes what a model of ours gives, or that the model draws with.

The nodes are those that the running host lists, so that a newer host's are tried too. An ordinary
run tries a tenth of them, and those without a row in their table in `docs/`. LIDIT_EVERY_NODE=1
tries all and writes the rows anew: `python3 run.py prove nodes`; with names of nodes and commas in
the place of 1 it does so with these alone. Run by the host's Python.
"""

from __future__ import annotations

import copy
import itertools
import os
import re
import zlib
from typing import Any

import pytest
from conftest import ROOT, SHIPPED
from node_table import HEAD, agree, read_rows, write_rows

ASKED = os.environ.get("LIDIT_EVERY_NODE", "")
TENTH = 10

pytestmark = pytest.mark.skipif(not SHIPPED.exists(), reason="needs the trained weights")


@pytest.fixture(params=["lidit", "llmdiff"])
def trier(request, server, host, base):
    import node_benches
    from node_files import save_files
    from node_graphs import Nodes
    from node_outcomes import Trier
    from workflow_kit import need_llms

    bench = getattr(node_benches, request.param)()
    need_llms(bench.api)
    save_files(base / "models", SHIPPED)
    return Trier(server, Nodes(server.get("/object_info")), bench)


def chosen(nodes: list[str], choices: list[str], known: dict[str, str]) -> list[str]:
    """A tenth, the same ones each time, and those without a row where there are others of the kind.

    Args:
        choices: those of the nodes that are a sampler's methods and schedules.
    """
    from node_outcomes import SLOW

    if ASKED:
        names = ASKED.split(",")
        return [node for node in nodes if ASKED == "1" or node.partition(", ")[0] in names]
    tenth = {node for node in nodes if zlib.crc32(node.encode()) % TENTH == 0}
    fresh = {node for node in nodes if node not in known} if known else set()
    if not any(choice in known for choice in choices):
        fresh -= set(choices)
    return [node for node in nodes if node in tenth | fresh and node not in SLOW]


def test_every_node_ends_in_a_picture_or_a_sentence(trier):
    version = trier.server.get("/system_stats")["system"]["comfyui_version"]
    table = trier.bench.table
    known = read_rows(version, table)
    nodes = trier.nodes.taking + trier.nodes.drawing + trier.nodes.choices
    tried = chosen(nodes, trier.nodes.choices, known)
    outcomes = dict(outcome for node in tried for outcome in trier.outcomes(node))
    happens = {node: outcome.text for node, outcome in outcomes.items()}
    if ASKED:
        write_rows(version, happens if ASKED == "1" else {**known, **happens}, table)
    faults = [f"{node}: {outcome.text}" for node, outcome in outcomes.items() if outcome.is_fault]
    assert not faults, "\n".join(faults)
    changed = [
        f"{node}: {told}, and before: {known[node]}"
        for node, told in happens.items()
        if node in known and not agree(told, known[node])
    ]
    assert ASKED or not changed, f"{table.name} has other rows:\n" + "\n".join(changed)


def test_no_graph_hangs_on_files_of_the_machine(server):
    """Every node's graphs are the same where any list of files has one more, at its front."""
    from node_benches import lidit, llmdiff
    from node_graphs import Nodes

    info = server.get("/object_info")
    fuller = Nodes(with_files(info))
    assert fuller.info != info
    for bench in (lidit(), llmdiff()):
        assert graphs(bench, Nodes(info)) == graphs(bench, fuller)


def with_files(info: dict[str, Any]) -> dict[str, Any]:
    """What the host says of its nodes, with another file in each list of files or of nothing."""
    info = copy.deepcopy(info)
    for told in info.values():
        for part in ("required", "optional"):
            for socket in (told["input"].get(part) or {}).values():
                if (choices := choices_of(socket)) is not None:
                    choices.insert(0, "another.safetensors")
    return info


def choices_of(socket: list[Any]) -> list[Any] | None:
    """The list itself where it is one of files; None where it is not."""
    from node_sockets import is_file

    kind, *rest = socket
    choices = kind if isinstance(kind, list) else (rest or [{}])[0].get("options")
    of_files = isinstance(choices, list) and all(isinstance(c, str) for c in choices)
    return choices if of_files and (not choices or any(map(is_file, choices))) else None


def graphs(bench: Any, nodes: Any) -> dict[str, Any]:
    """By node, whether all inputs are connected and whether values are moved: the graph, or what
    it lacks.
    """
    from node_graphs import Lacking, trial

    made, known = {}, nodes.taking + nodes.drawing
    for node, everything, aside in itertools.product(known, (False, True), (False, True)):
        try:
            made[node, everything, aside] = trial(bench, nodes, node, everything, aside).api
        except Lacking as lacking:
            made[node, everything, aside] = lacking.args[0]
    return made


MOVES = [
    ("FLOAT", {"default": 1.0, "min": 0.0, "max": 10.0}, 1.333),
    ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0}, 0.667),
    ("FLOAT", {"default": 0, "max": 1.0}, 0.333),
    ("FLOAT", {"default": 1.0, "min": -1e9, "max": 1e9}, 1.333),
    ("INT", {"default": 0, "min": 0, "max": 16384, "step": 8}, 8),
    ("INT", {"default": 50, "min": 0, "max": 55}, 52),
    ("INT", {"default": -1, "min": -24, "max": -1}, -2),
    ("BOOLEAN", {"default": True}, False),
    ("COMBO", {"options": ["a", "b"], "default": "b"}, "a"),
    ("STRING", {"default": "7, 8, 9"}, "7, 8, 9"),
]


@pytest.mark.parametrize("kind, options, moved_to", MOVES)
def test_a_value_moves_within_its_range(kind, options, moved_to):
    from node_sockets import sockets_of
    from node_widgets import moved, widget

    (socket,) = sockets_of({"required": {"value": [kind, options]}})
    assert moved("value", socket, widget("value", socket, 64)) == moved_to


def test_values_that_set_how_much_is_drawn_stay():
    from node_sockets import sockets_of
    from node_widgets import STEPS, moved

    how = {"default": 20, "min": 1, "max": 100}
    (steps,) = sockets_of({"required": {"steps": ["INT", how]}})
    (width,) = sockets_of({"required": {"width": ["INT", {**how, "min": 48}]}})
    (layers,) = sockets_of({"required": {"layers": ["STRING", {}]}})
    assert moved("steps", steps, STEPS) == STEPS
    assert [moved("width", width, side) for side in (128, 64)] == [64, 48]
    assert moved("layers", layers, "7, 8, 9") == "1, 2"


def test_rows_are_written_as_they_are_read(tmp_path):
    path = tmp_path / "table.md"
    path.write_text(f"Before.\n\n{HEAD}")
    old, new = (
        {"A": "runs", "B": "refused: a | b"},
        {"A": "runs", "B, all inputs": "runs", "B, c": "runs"},
    )
    write_rows("0.10.0", old, path)
    write_rows("0.9.1", new, path)
    assert read_rows("0.10.0", path) == {"A": "runs", "B": "refused: a / b"}
    assert read_rows("0.9.1", path) == new
    assert path.read_text().startswith("Before.\n")
    assert "| `A` | 0.9.1, 0.10.0 | runs |" in path.read_text()
    write_rows("0.10.0", {}, path)
    assert not read_rows("0.10.0", path)


def test_what_a_loader_tells_is_no_note_of_a_row():
    from host_server import Run
    from node_outcomes import noted

    api = {"1": {"class_type": "LiDiTLLMLoader"}, "6": {"class_type": "KSampler"}}
    run = Run("", texts={"1": ["reading: 3 %", "510 MB"], "6": ["positive prompt: long"]})
    assert noted(run, api) == "; noted: positive prompt: long"


def test_errors_of_the_pack_are_known_by_their_names():
    from host_server import OUR_ERRORS

    files = [f for room in ("host", "lidit_core", "nodes") for f in (ROOT / room).rglob("*.py")]
    of_pack = re.compile(r"^class (\w+)\(.*LiDiTError", re.MULTILINE)
    kinds = {kind for file in files for kind in of_pack.findall(file.read_text("utf-8"))}
    assert {"LiDiTError", *kinds} == set(OUR_ERRORS)


def test_outcomes_agree_in_kind_and_distance():
    assert agree("refused: this, too", "refused: that")
    assert agree("another picture (12); noted: a", "another picture (15), why")
    assert not agree("another picture (39)", "another picture (4)")
    assert not agree("another picture (4)", "the same picture")
    assert not agree("refused: this", "ComfyUI's own error: this")
