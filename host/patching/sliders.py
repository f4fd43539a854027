"""Sliders of a merging node that name no weights of a model, for which another slider holds.

ModelMergeBlocks and its relatives have a slider for each part of some kind of model, and take the
first one where a weight's name begins with none of theirs.
"""

from __future__ import annotations

from collections.abc import Collection

from ..queued import running_node

MERGES = "ModelMerge"  # the beginning of those nodes' names

IDLE = (
    "{node} has sliders for another kind of model: {idle} name no part of {what} and have no "
    "effect, and {first} holds in their place; merge with ModelMergeSimple"
)


def idle_sliders(weights: Collection[str], what: str) -> str:
    """The sentence on a merging node that runs; "" = it does what its sliders say.

    Args:
        weights: the names of the model's, without what stands before all of them.
        what: the model, as sentences call it.
    """
    graph, running = running_node()
    node = graph.get(running, {})
    kind, inputs = str(node.get("class_type", "")), node.get("inputs", {})
    set_here = {name: value for name, value in inputs.items() if isinstance(value, (int, float))}
    if not kind.startswith(MERGES) or len(set_here) < 2:
        return ""
    first, *rest = set_here
    idle = [
        f"{name}={set_here[name]:g}"
        for name in rest
        if set_here[name] != set_here[first]
        and not any(weight.startswith(name) for weight in weights)
    ]
    if not idle:
        return ""
    more = f" and {len(idle) - 3} more" if len(idle) > 3 else ""
    shown, held = ", ".join(idle[:3]) + more, f"{first}={set_here[first]:g}"
    return IDLE.format(node=kind, idle=shown, what=what, first=held)
