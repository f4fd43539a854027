"""What the host says of a LoRA's tensors in its log alone: those that fit no weight of any model.

It reads a LoRA against the names of a model's weights and drops the rest before a patcher sees any.
"""

from __future__ import annotations

import logging

from comfy_execution.utils import get_executing_context

UNREAD = "lora key not loaded: "  # how the host begins; it writes at the level of warnings


class UnreadNames(logging.Handler):
    """Listens for the names of such tensors, while a node runs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.names: list[str] = []
        self.node: tuple[str, str] | None = None  # in whose run they were named

    def emit(self, record: logging.LogRecord) -> None:
        node = running_node()
        if node is None or not str(record.msg).startswith(UNREAD):
            return
        if node != self.node:
            self.names, self.node = [], node
        self.names.append(record.getMessage().removeprefix(UNREAD))

    def take(self) -> tuple[str, ...]:
        """Give the names in the running node's LoRA, once."""
        names = self.names if self.node == running_node() else []
        self.names, self.node = [], None
        return tuple(names)


def running_node() -> tuple[str, str] | None:
    """The ids of the prompt and of the node that the host executes; None where a script calls."""
    context = get_executing_context()
    return None if context is None else (context.prompt_id, context.node_id)


left_out = UnreadNames()  # of the host's log, see `hear_warnings`
