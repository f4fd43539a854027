"""The workflow that the host runs, as it was queued: which node stands before and after which."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from comfy_execution.utils import get_executing_context

Graph = Mapping[str, Mapping[str, Any]]  # nodes by their ids, each with class_type and inputs


def running_node() -> tuple[Graph, str]:
    """The graph that the host executes, and the id of the node; empty where a script calls."""
    context, server = get_executing_context(), sys.modules.get("server")  # none in a script
    host = getattr(getattr(server, "PromptServer", None), "instance", None)
    if context is None or host is None:
        return {}, ""
    queued = {item[1]: item[2] for item in [*host.prompt_queue.currently_running.values()]}
    return queued.get(context.prompt_id, {}), context.node_id


def kind_of(graph: Graph, node: str) -> str:
    """The name of a node's class; "" of one that is not there, as one that another has made."""
    return str(graph.get(node, {}).get("class_type", ""))


def sources(graph: Graph, node: str, kind: str) -> Iterator[str]:
    """The nodes that give a node what is of this kind, as "VAE"."""
    for value in graph.get(node, {}).get("inputs", {}).values():
        if isinstance(value, list) and len(value) == 2 and _gives(graph, *value) == kind:
            yield str(value[0])


def readers(graph: Graph, node: str, kind: str) -> Iterator[str]:
    """The nodes to which a node gives what is of this kind."""
    return (other for other in graph if node in sources(graph, other, kind))


def _gives(graph: Graph, node: Any, output: Any) -> str:
    """The kind of an output; "" where nobody knows it."""
    classes = getattr(sys.modules.get("nodes"), "NODE_CLASS_MAPPINGS", {})  # the host's own file
    known = getattr(classes.get(kind_of(graph, str(node))), "RETURN_TYPES", ())
    there = isinstance(output, int) and 0 <= output < len(known)
    return str(known[output]) if there else ""
