"""What newer hosts know of a node and older ones refuse: one such field drops the whole pack."""

from __future__ import annotations

import dataclasses
from typing import Any

from comfy_api.latest import io

LATER = {"search_aliases"}  # fields that hosts after 0.3.64 have; any other unknown one is an error


def schema(search_aliases: str, advanced: str = "", **fields: Any) -> io.Schema:
    """A node's schema of those fields that this host knows.

    Args:
        search_aliases: by what else the node is found, separated by commas.
        advanced: inputs that are folded away until the node is told to show all, likewise.

    Raises:
        TypeError: a field is unknown and no newer host is known to have it.
        KeyError: an advanced input is none of the node's.
    """
    known = {field.name for field in dataclasses.fields(io.Schema)}
    fields["search_aliases"] = search_aliases.split(", ")
    inputs = {put.id: put for put in fields["inputs"]}
    for name in filter(None, advanced.split(", ")):
        inputs[name].extra_dict["advanced"] = True  # as an argument 0.3.64 would refuse it
    return io.Schema(**{k: v for k, v in fields.items() if k in known or k not in LATER})
