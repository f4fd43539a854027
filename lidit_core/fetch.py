"""Starts `llm/fetch.py`, which older lines name: `python …/lidit_core/fetch.py smollm2`."""

import runpy
from pathlib import Path

if __name__ == "__main__":
    runpy.run_path(str(Path(__file__).with_name("llm") / "fetch.py"), run_name="__main__")
