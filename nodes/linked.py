"""Inputs that are to be connected: a value written in the place of a link is told in a sentence.

The host lets a graph in API format hold any number or text there, and hands it to the node.
"""

from __future__ import annotations

import functools
from typing import Any

from comfy_api.latest import io

from ..lidit_core.errors import check, shown

WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
PLAIN = (bool, int, float, str)
Node = type[io.ComfyNode]


def checking_links(node: Node) -> Node:
    """The node, whose run begins with a look at what is connected."""
    run = node.execute.__func__

    @functools.cache
    def links() -> list[str]:
        inputs = {put.id: put.get_io_type() for put in node.define_schema().inputs}
        return [name for name, kind in inputs.items() if kind not in WIDGETS]

    @functools.wraps(run)
    def execute(cls: Node, *values: Any, **given: Any) -> io.NodeOutput:
        for name in links():
            check_link(name, given.get(name))
        return run(cls, *values, **given)

    node.execute = classmethod(execute)
    return node


def check_link(name: str, value: Any) -> None:
    """Raise for a number or a text, alone or in a list, where a node's output is expected."""
    values = value if isinstance(value, list) else [value]
    check(
        not any(isinstance(each, PLAIN) for each in values),
        f"{name} is {shown(value)}, which is no output of a node; connect one that gives it",
    )
