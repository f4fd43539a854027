"""The bridges that are compared: the whole one, and what it is without each of its parts."""

from __future__ import annotations

from dataclasses import dataclass

STUDENT = "SmolLM2-135M-Instruct"
TEACHER = "gemma-3-270m"


@dataclass(frozen=True)
class BridgeVariant:
    """A bridge, by what its recipe changes.

    Args:
        random: the LLM that it reads has random weights.
    """

    name: str
    says: str
    changes: tuple[str, ...] = ()
    random: bool = False


WHOLE = BridgeVariant("bridge", "ridge, and what attention adds")
RIDGE_ALONE = BridgeVariant("ridge", "ridge alone")  # which the whole bridge's run leaves
VARIANTS = (
    WHOLE,
    RIDGE_ALONE,
    BridgeVariant("mlp", "ridge, and what an MLP adds token by token", ("bridge.residual=mlp",)),
    BridgeVariant("no-base", "without ridge", ("bridge.base=false",)),
    BridgeVariant(
        "no-overlap", "attention knows of no shared characters", ("bridge.overlap=false",)
    ),
    BridgeVariant("no-seeds", "queries know of no token", ("bridge.seeds=none",)),
    BridgeVariant("trained-seeds", "a table of tokens that is trained", ("bridge.seeds=trained",)),
    BridgeVariant("random", "an LLM with random weights", random=True),
)
