"""Write a short prompt out with a language model that was tuned for chat.

Its text goes to the output alone, so that it can be read, changed and drawn. The same seed writes
the same text again.
"""

from __future__ import annotations

import argparse

from ..llm.demo_llms import SMOLLM2

HELP = "write a short prompt out with a language model"

EXAMPLES = """\
examples:
  lidit expand "a cat to the left of a dog"
  lidit expand "a red car" --seed 3 --max-tokens 60
  lidit expand "a fox" --llm models/Qwen3-4B --instruction "Describe this picture: {prompt}"
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("prompt", help="what to write out")
    add("--llm", default=SMOLLM2.name, metavar="LLM", help=f"as for generate ({SMOLLM2.name})")
    add("--instruction", default="", metavar="TEXT", help="what the LLM is told (ours)")
    add("--seed", type=int, default=0, metavar="N", help="another one writes another text (0)")
    add("--max-tokens", type=int, default=96, metavar="N", help="of the text at most (96)")
    add("--temperature", type=float, default=0.7, metavar="X", help="0 = the likeliest text (0.7)")
    add("--top-p", type=float, default=0.9, metavar="X", help="share of tokens drawn from (0.9)")
    add("--device", metavar="NAME", help="cpu, cuda, mps … (NVIDIA or AMD GPU, else cpu)")


def run(args: argparse.Namespace) -> int:
    from ..llm.loading import load_llm
    from ..llm.locate import check_present
    from ..pipeline import find_device
    from ..text.expansion import Expansion, expand

    how = Expansion(args.instruction, args.seed, args.temperature, args.top_p, args.max_tokens)
    check_present(args.llm)
    llm = load_llm(args.llm, device=find_device(args.device))
    print(expand(llm, args.llm, args.prompt, how).text)
    return 0
