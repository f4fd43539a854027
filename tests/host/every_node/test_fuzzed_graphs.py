"""Hostile graphs of our nodes in a running host: a picture, or one sentence. Host's Python.

`python3 run.py prove fuzzing` feeds 1,000, an ordinary run 20. `LIDIT_FUZZ_ONLY=17` repeats one.
"""

from __future__ import annotations

import contextlib
import json
import urllib.error
from random import Random
from typing import Any

import pytest
from fuzz import COUNT, not_a_sentence, numbers, spoilt
from node_benches import lidit, llmdiff
from node_graphs import Lacking, Nodes, trial
from workflow_kit import NAMES as EVERY
from workflow_kit import SAMPLERS, Api, changed, prepare, read

websocket = pytest.importorskip("websocket", reason="needs websocket-client")
from host_server import OUR_ERRORS, Client, HostServer, Refused, Run  # noqa: E402

NAMES = [EVERY[number] for number in (0, 2, 3, 5, 7)]
PACKS = "custom_nodes"  # where the host has modules of packs
OURS = "/custom_nodes/"  # in the path of what belongs to the pack
FEW = 60  # of an ordinary run, which takes every third
SECONDS = 600  # without a word from the host: 264 pictures on a loaded machine are no hang


@pytest.fixture(scope="module")
def graphs(server, pack, host) -> list[Api]:
    """The workflows, each of our nodes with all of its inputs, and a bridge that learns."""
    from bridge_files import Bench

    found = [read(name)[1] for name in NAMES]
    for api in found:
        prepare(server, api)
    learns = Bench(pack, host).training_graph("hostile")
    return [quick(api) for api in [*found, *own(Nodes(server.get("/object_info"))), learns]]


def own(nodes: Nodes) -> list[Api]:
    """Graphs with one of our nodes; without those that need a file which does not ship."""
    names = [n for n, told in nodes.info.items() if told["python_module"].startswith(PACKS)]
    found = []
    for name in names:
        bench = llmdiff() if name.startswith("LLMDiff") else lidit()
        with contextlib.suppress(Lacking):
            found.append(trial(bench, nodes, name, everything=True).api)
    assert len(found) > len(names) / 2
    return found


def quick(api: Api) -> Api:
    has_sampler = any(node["class_type"] in SAMPLERS for node in api.values())
    return changed(api, SAMPLERS, steps=1) if has_sampler else api


def hostile(rng: Random, api: Api) -> Api:
    """The graph with one to three of its values wrong or missing, or a node.

    Each node stays one: a node without inputs ends the queue of older hosts, ours or not.
    """
    inputs = spoilt(rng, {name: node["inputs"] for name, node in api.items()})
    return {
        name: {**node, "inputs": inputs[name]}
        for name, node in api.items()
        if isinstance(inputs.get(name), dict)
    }


def fault(server: HostServer, api: Api) -> str:
    """What is wrong with how a graph ends; "" where nothing is."""
    before = len(server.log)
    try:
        run = drawn(server, api)
    except Refused as refused:
        return fault_of_refusal(str(refused))
    except urllib.error.HTTPError as error:  # the host's own, where a graph is none at all
        return f"{error}" if OURS in server.log[before:] else ""
    except websocket.WebSocketTimeoutException:
        server.post("/interrupt", {})
        return f"it takes more than {SECONDS} seconds"
    return "" if run.ending == "execution_success" else fault_of_error(run)


def drawn(server: HostServer, api: Api) -> Run:
    with Client(server) as client:
        client.socket.settimeout(SECONDS)
        return client.wait(client.queue(api))


def fault_of_refusal(answer: str) -> str:
    """Nothing, unless what our nodes say of their inputs ended in a traceback."""
    nodes = (json.loads(answer).get("node_errors") or {}).values()
    errors = [error for node in nodes for error in node["errors"]]
    frames = [line for error in errors for line in traceback_of(error.get("extra_info") or {})]
    return next((line for line in frames if OURS in line), "")


def traceback_of(info: dict[str, Any]) -> list[str]:
    return info.get("traceback") or []


def fault_of_error(run: Run) -> str:
    """Nothing for a sentence of ours, and for an error of the host's that we have no part in."""
    (told,) = run.of_type("execution_error")
    if told["exception_type"].split(".")[-1] in OUR_ERRORS:
        return not_a_sentence(told["exception_message"])
    frames = [line for line in told["traceback"] if OURS in line]
    return (
        f"{told['exception_type']}: {told['exception_message']} in {frames[-1]}" if frames else ""
    )


def test_hostile_graphs_end_in_a_picture_or_a_sentence(server, graphs):
    share = numbers() if COUNT > FEW else numbers()[::3]
    faults = []
    for number in share:
        rng = Random(f"graph {number}")
        api = hostile(rng, rng.choice(graphs))
        if told := fault(server, api):
            faults.append(f"graph {number}: {told}\n    from {json.dumps(api)[:600]}")
    assert not faults, f"{len(faults)} of {len(share)} fail\n" + "\n".join(faults[:12])
    assert server.process.poll() is None
