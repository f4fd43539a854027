"""Tells on the node that draws, and in the log, of prompts longer than the weights have seen."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from comfy_execution.utils import get_executing_context

from ..lidit_core.text.spec import LLMSpec

log = logging.getLogger(__name__)

WITHIN = "The prompts are no longer than those that the weights were trained on."
PATCHED = "; a LoRA on this model may have been trained on longer ones"


@dataclass
class NodeRun:
    """One node in one run of a workflow, and what it was told."""

    prompt_id: str = ""
    node_id: str = ""
    notes: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)


_latest = NodeRun()
_marked: set[str] = set()  # ids of nodes that show a note; it stays on a node until another comes


def tell_length(spec: LLMSpec, used: int, kind: str = "", patched: bool = False) -> None:
    """Tell of a prompt that is longer than this LLM's branch was trained on.

    The host asks at every sampling, whether the prompt was encoded anew or not. Of several prompts
    of one kind the longest is told.

    Args:
        used: tokens of the prompt that are read, the template's not counted.
        kind: "positive" or "negative" where it is known.
        patched: whether LoRAs change the model.
    """
    note, run = spec.length_note(used), _running()
    if run is not None and not note:
        _clear(run)
    known, _ = run.notes.get((kind, spec.name), (0, "")) if run else (0, "")
    if not note or used <= known:
        return
    sentence = f"{kind} prompt: {note}{PATCHED if patched else ''}".strip()
    log.warning("%s", sentence)
    if run is not None:
        run.notes[kind, spec.name] = used, sentence
        _marked.add(run.node_id)
        _show(run.node_id, "\n".join(told for _, told in run.notes.values()))


def _clear(run: NodeRun) -> None:
    """Take back what the node shows from an earlier run, unless this one has notes too."""
    if run.node_id in _marked and not run.notes:
        _marked.discard(run.node_id)
        _show(run.node_id, WITHIN)


def _running() -> NodeRun | None:
    """The node that the host executes; None where a script calls."""
    global _latest
    context = get_executing_context()
    if context is None:
        return None
    if (context.prompt_id, context.node_id) != (_latest.prompt_id, _latest.node_id):
        _latest = NodeRun(context.prompt_id, context.node_id)
    return _latest


def _show(node_id: str, text: str) -> None:
    """Put a text below the node's widgets, for the user who queued it."""
    from server import PromptServer  # the host's; scripts that only load models have none

    host = PromptServer.instance
    host.send_progress_text(text, node_id, host.client_id)
