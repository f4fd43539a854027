"""Puts the repository on the path. Run from anywhere: pytest tests (see README, "Tests")."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach a hub, whatever it asks for

import torch  # noqa: E402

torch.set_num_threads(1)  # the models of the tests are tiny: a second thread only waits
