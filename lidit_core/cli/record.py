"""Record what one language model of a model makes of prompts, so that a bridge learns to write it.

The recording is a folder of shards; the same command goes on where it stopped. Beside them lies
what a bridge needs of the language model: its tokenizer, and what its own table says of each token.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .generate import add_for_llms

HELP = "record what a language model makes of prompts, for a bridge"

EXAMPLES = """\
examples:
  lidit record prompts.txt --model stickers-duo --llm gemma-3-270m --out recordings/gemma
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("prompts", type=Path, help="a text file, one prompt a line")
    add("--model", default="stickers", metavar="NAME", help="a name or a checkpoint (stickers)")
    add(
        "--llm",
        metavar="NAME[=LLM]",
        help="which of the model's language models, and where it is (its first)",
    )
    add("--out", type=Path, required=True, metavar="DIR", help="the recording's folder")
    add("--device", metavar="NAME", help="cpu, cuda, mps … (NVIDIA or AMD GPU, else cpu)")
    add_for_llms(parser)


def run(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ..bridge.teacher import write_teacher
    from ..io.prompts import read_prompts
    from ..io.recording import record

    prompts = read_prompts(args.prompts)
    spec, encoder = _opened(args)
    teacher = _teacher(spec, encoder)

    def encode(text: str):
        (row,) = encoder.encode_rows([text])
        return [(row.hidden[None].cpu(), {})]

    with tqdm(total=len(prompts), unit="prompt", disable=None) as bar:
        about = {"encoder": spec.name, "block": spec.block, "template": spec.template.name}
        record(encode, prompts, args.out, about, bar.update)
    write_teacher(args.out, teacher)
    print(args.out)
    return 0


def _opened(args: argparse.Namespace):
    """The branch's LLM as its checkpoint describes it, and its encoder."""
    from ..branches import choose_llms, open_encoders
    from ..checkpoints.lidit import read_config
    from ..errors import check
    from ..pipeline import find_device
    from ..shipped import find_model

    path, named = find_model(args.model)
    config = read_config(path)
    name = (args.llm or config.llms[0].name).partition("=")[0]
    places = [i for i, llm in enumerate(config.llms) if llm.name == name]
    check(
        bool(places),
        f"--llm {name!r} is none of {args.model}'s language models; expected one of "
        f"{', '.join(llm.name for llm in config.llms)}",
    )
    given = [args.llm] if "=" in (args.llm or "") else [name]
    chosen = choose_llms(config, given, named)
    encoders = open_encoders(config, chosen, find_device(args.device), args.cache, args.spread)
    return config.llms[places[0]], encoders[places[0]]


def _teacher(spec, encoder):
    """The LLM without its weights, by the tokenizer and the table that it was loaded with."""
    from tokenizers import Tokenizer

    from ..bridge.config import TeacherSpec
    from ..bridge.layout import RowMaker, TokenLayout, fitted
    from ..bridge.teacher import Teacher, seeds_of

    loaded = encoder.encoder()
    renderer = loaded.renderer
    tokenizer = Tokenizer.from_str(renderer.reads.backend_tokenizer.to_str())  # one of our own
    layout = TokenLayout(
        start=tuple(renderer.head_ids),
        end=tuple(renderer.tail_ids),
        before=renderer.before,
        after=renderer.after,
        pad=renderer("").ids[-1],  # where nothing is around it this is all of an empty prompt
        most=renderer.budget,
    )
    layout = fitted(layout, tokenizer)
    table = loaded.llm.module.get_input_embeddings().weight
    widths = (spec.width,) * spec.taps if spec.taps > 1 else ()
    teacher = TeacherSpec(spec.name, spec.state_width, len(table), layout, taps=widths)
    return Teacher(teacher, RowMaker(layout, tokenizer), seeds_of(table.float().cpu()))
