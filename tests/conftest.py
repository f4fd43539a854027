"""Puts the repository on the path. Run from anywhere: pytest tests (see CONTRIBUTING.md)."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "kit")]  # the kit is what tests share

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach a hub, whatever it asks for
# `lidit generate` sets it for itself and what it starts; MKL reads it once, at its first use, so
# that a test's own numbers would differ from those of a process that it starts afterwards.
os.environ.setdefault("MKL_CBWR", "AUTO")

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)  # the models of the tests are tiny: a second thread only waits


LONG = "LIDIT_LONG"  # set by `run.py prove long`


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what an ordinary run has no time for, but where it is chosen by its mark."""
    if os.environ.get(LONG):
        return
    why = pytest.mark.skip(reason="it takes long; run it by: python3 run.py prove long")
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(why)


@pytest.fixture(scope="module", autouse=True)
def settled() -> None:
    """Spare Python's collector the libraries and the tests, which stay to the end.

    It would walk through half a million objects each time that a test has left some garbage; here,
    before a file's tests, are also those that the file before has imported.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)  # before the test's fixtures draw
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what draws stickers where the emoji font is missing, and say how to get it."""
    if item.get_closest_marker("font") is None:
        return
    from lidit_core.errors import LiDiTError
    from lidit_stickers.scenes.glyphs import find_font

    try:
        find_font()
    except LiDiTError as error:
        pytest.skip(str(error))
