"""Notes on the node that runs and in the log: what a user should know and no error says."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field

from comfy_execution.utils import get_executing_context

log = logging.getLogger(__name__)

LIBRARY = __name__.removesuffix("host.node_notes") + "lidit_core"  # before the names of its logs
NOTHING = "What was noted here before no longer holds."


@dataclass
class NodeRun:
    """One node in one run of a workflow, and what it was told."""

    prompt_id: str = ""
    node_id: str = ""
    report: str = ""  # what its node itself says
    result: bool = False  # whether that is what it was run for, which stands before the notes
    notes: dict[object, tuple[int, str]] = field(default_factory=dict)

    @property
    def text(self) -> str:
        notes = [told for _, told in self.notes.values()]  # first, as the box shows three lines
        told = [self.report, *notes] if self.result else [*notes, self.report]
        return "\n".join(filter(None, told))


_latest = NodeRun()
_marked: set[str] = set()  # ids of nodes that show a note; it stays on a node until another comes


def note(sentence: str, about: object = None, rank: int = 1) -> None:
    """Tell of something below the running node's widgets and in the log, once a run of the node.

    Args:
        about: what the note is about; a later note on it takes the place of an earlier one where
            its rank is higher, and is left out otherwise. None = the sentence itself.
    """
    if _is_news(sentence, about, rank):
        log.warning("%s", sentence)


def _is_news(sentence: str, about: object = None, rank: int = 1) -> bool:
    """Show the sentence on the running node, if any, unless that shows it already."""
    run = _running()
    known, _ = run.notes.get(about or sentence, (0, "")) if run else (0, "")
    if rank <= known:
        return False
    if run is not None:
        run.notes[about or sentence] = rank, sentence
        _marked.add(run.node_id)
        _show(run.node_id, run.text)
    return True


class _LibrarysWarnings(logging.Handler):
    """Shows on the running node what the library, which knows no nodes, has logged."""

    def emit(self, record: logging.LogRecord) -> None:
        _is_news(record.getMessage())


def hear_warnings(*listeners: logging.Handler) -> None:
    """Hear the library's warnings, and the host's, however little the log is to show.

    What the user chose for the log (`--verbose ERROR`) then holds for each of its outputs, which
    show what they did before.

    Args:
        listeners: take what the host logs.
    """
    root, library = logging.getLogger(), logging.getLogger(LIBRARY)
    if root.level > logging.WARNING:
        for output in set(root.handlers).difference(listeners):
            output.setLevel(max(output.level, root.level))
        root.setLevel(logging.WARNING)
    for listener in listeners:
        root.addHandler(listener)
    if not library.handlers:
        library.addHandler(_LibrarysWarnings(logging.WARNING))


def report(text: str, result: bool = False) -> None:
    """Show a text below the running node's widgets, after its notes; a later one replaces it.

    Args:
        result: whether it is what the node was run for; it then stands before the notes.
    """
    run = _running()
    if run is not None:
        run.report, run.result = text, result
        _marked.discard(run.node_id)  # what it shows from an earlier run is replaced
        _show(run.node_id, run.text)


def ui_notes() -> dict[str, list[str]] | None:
    """What the running node shows, for its place in the history: `ui` of a NodeOutput."""
    run = _running()
    return {"text": [run.text]} if run and run.text else None


def nothing_to_note() -> None:
    """Take back what the running node shows from an earlier run, unless this one says more."""
    run = _running()
    if run is not None and run.node_id in _marked and not (run.notes or run.report):
        _marked.discard(run.node_id)
        _show(run.node_id, NOTHING)


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
    """Put a text below the node's widgets, for the user who queued it.

    Nodes 2.0 show its lines as one, so that there are stops between them.
    """
    from server import PromptServer  # the host's; scripts that only load models have none

    host = getattr(PromptServer, "instance", None)
    if host is not None:
        stopped = re.sub(r"(?<![.!?。])\n", ".\n", text)
        host.send_progress_text(stopped, node_id, host.client_id)
