"""Processes that read ahead of the training."""

from __future__ import annotations

import signal


def ignore_interrupts(worker: int) -> None:
    """Let a process that reads ahead finish; a terminal sends Ctrl-C to it too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
