"""The command that draws with nodes that guide, which docs/results.md names. Host's Python."""

from __future__ import annotations

import os
import subprocess
import sys

from conftest import HOST, ROOT, SHIPPED
from PIL import Image
from workflow_kit import need_llms


def test_pictures_are_drawn_in_each_way(api, tmp_path):
    need_llms(api)
    assert SHIPPED.exists()
    words = ["-m", "benchmarks.guidance", "--out", str(tmp_path), "--every", "1080"]
    environment = {**os.environ, "COMFYUI_PATH": str(HOST)}
    ways = ["cfg=3", "cfg=3,pag=1"]
    run = [sys.executable, *words, "--ways", *ways]
    subprocess.run(run, cwd=ROOT, env=environment, check=True, capture_output=True)
    plain, guided = (Image.open(tmp_path / way / "00000.png") for way in ways)
    assert plain.size == guided.size == (128, 128) and plain.tobytes() != guided.tobytes()
