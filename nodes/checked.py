"""Inputs are looked at before a node runs: a graph in API format may hold any value anywhere.

The host hands a number or a text to an input that is to be connected, and, up to 0.3.64, any value
to a list of a node that checks one of its inputs itself. What the system refuses while the node
runs, as a folder that cannot be written or a full disk, is a sentence too.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

from ..host.folders import is_name
from ..lidit_core.errors import LiDiTError, check, listed, refusal, shown

WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
TOLD = 12  # of a list's options in a sentence
PLAIN = (bool, int, float, str)
Node = type[io.ComfyNode]


def checking_inputs(node: Node) -> Node:
    """The node, whose run begins with a look at what is connected and what is chosen."""
    run = node.execute.__func__

    @functools.cache
    def links() -> list[str]:
        return [put.id for put in node.define_schema().inputs if put.get_io_type() not in WIDGETS]

    @functools.cache
    def choices() -> dict[str, Sequence[Any] | None]:
        own = inspect.signature(node.validate_inputs).parameters  # names that the node looks for
        combos = [put for put in node.define_schema().inputs if isinstance(put, io.Combo.Input)]
        return {put.id: None if put.id in own else put.options for put in combos}

    @functools.wraps(run)
    def execute(cls: Node, *values: Any, **given: Any) -> io.NodeOutput:
        for name in links():
            check_link(name, given.get(name))
        for name in choices().keys() & given.keys():
            check_choice(name, given[name], choices()[name])
        try:
            return run(cls, *values, **given)
        except OSError as error:
            if not error.strerror:  # another library's, not the system's
                raise
            raise LiDiTError(refusal(error)) from error

    node.execute = classmethod(execute)
    return node


def check_link(name: str, value: Any) -> None:
    """Raise for a number or a text, alone or in a list, where a node's output is expected."""
    values = value if isinstance(value, list) else [value]
    check(
        not any(isinstance(each, PLAIN) for each in values),
        f"{name} is {shown(value)}, which is no output of a node; connect one that gives it",
    )


def check_choice(name: str, value: Any, options: Sequence[Any] | None) -> None:
    """Raise for a value that is not among the options, of which the first ones are told.

    Args:
        options: None = the names of files, which the node looks for when it runs.
    """
    if not options:
        a_name = value is None or isinstance(value, str) and is_name(value)
        return check(a_name, f"{name} is {shown(value)}; expected a name from its list")
    check(value in options, f"{name} is {shown(value)}; expected one of {listed(options, TOLD)}")
