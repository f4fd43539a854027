"""The library's progress on the running node: the host's bar, a text, and Cancel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import comfy.utils
from comfy import model_management

from ..lidit_core.progress import Cancelled, heard_by
from .node_notes import report

PARTS = 1000  # of the bar


@contextmanager
def shown_on_node() -> Iterator[None]:
    """Show how far the library is within the block, and let the host's Cancel end it.

    Raises:
        InterruptProcessingException: the host's, once the library has cleaned up.
    """
    try:
        with heard_by(_Shown()):
            yield
    except Cancelled:
        model_management.interrupt_current_processing(True)
        model_management.throw_exception_if_processing_interrupted()


class _Shown:
    """Shows each step on a bar of its own: the host's takes no step back."""

    def __init__(self) -> None:
        self.what, self.percent = "", -1
        self.bar = comfy.utils.ProgressBar(PARTS)

    def __call__(self, what: str, share: float) -> None:
        if model_management.processing_interrupted():
            raise Cancelled
        if what != self.what:
            self.what, self.percent, self.bar = what, -1, comfy.utils.ProgressBar(PARTS)
        if int(100 * share) != self.percent:
            self.percent = int(100 * share)
            report(f"{what}: {self.percent} %")
        try:
            self.bar.update_absolute(int(PARTS * share))
        except model_management.InterruptProcessingException:
            raise Cancelled from None
