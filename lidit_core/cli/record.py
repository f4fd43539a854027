"""Record what a text encoder makes of prompts, so that a bridge learns to write it.

It is one language model of a model, or the demo checkpoint's own encoder. The recording is a folder
of shards; the same command goes on where it stopped. Beside them lies what a bridge needs of the
encoder: its tokenizer, and what its own table says of each token.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .generate import add_for_llms

if TYPE_CHECKING:
    from ..bridge.teacher import Teacher
    from ..io.conditioning import Entry
    from ..io.recording import Encode

HELP = "record what a language model or the demo checkpoint makes of prompts, for a bridge"

EXAMPLES = """\
examples:
  lidit record prompts.txt --model stickers-duo --llm gemma-3-270m --out recordings/gemma
  lidit record prompts.txt --model stickers-sd --out recordings/stickers-sd
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("prompts", type=Path, help="a text file, one prompt a line")
    add(
        "--model",
        default="stickers",
        metavar="NAME",
        help="a name or a checkpoint (stickers); of the demo checkpoint its own text encoder",
    )
    add(
        "--llm",
        metavar="NAME[=LLM]",
        help="which of the model's language models, and where it is (its first)",
    )
    add("--out", type=Path, required=True, metavar="DIR", help="the recording's folder")
    add("--device", metavar="NAME", help="cpu, cuda, mps … (NVIDIA or AMD GPU, else cpu)")
    add_for_llms(parser)


def run(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from tqdm import tqdm

    from ..bridge.teacher import write_teacher
    from ..demo.checkpoint import read_demo_config
    from ..errors import check
    from ..io.prompts import read_prompts
    from ..io.recording import record
    from ..shipped import find_base

    prompts = read_prompts(args.prompts)
    base = find_base(args.model)
    if base.is_file() and read_demo_config(base):
        check(
            args.llm is None,
            f"--model {args.model} reads text by an encoder of its own, and --llm {args.llm} is "
            "for the language models of a LI-DiT; leave --llm out",
        )
        encode, teacher = of_demo(base)
        about = {"encoder": teacher.spec.name}
    else:
        spec, encoder = _opened(args)
        encode = _of_llm(encoder)
        teacher = replace(_teacher(spec, encoder), empty=encode("")[0])
        about = {"encoder": spec.name, "block": spec.block, "template": spec.template.name}

    with tqdm(total=len(prompts), unit="prompt", disable=None) as bar:
        record(encode, prompts, args.out, about, bar.update)
    write_teacher(args.out, teacher)
    print(args.out)
    return 0


def _of_llm(encoder) -> Encode:
    """What an LLM makes of a prompt."""

    def encode(text: str) -> list[Entry]:
        (row,) = encoder.encode_rows([text])
        return [(row.hidden[None].cpu(), {})]

    return encode


def of_demo(path: Path) -> tuple[Encode, Teacher]:
    """What the demo checkpoint's own text encoder makes of a prompt, and the encoder itself."""
    from ..bridge.config import TeacherSpec
    from ..bridge.layout import word_rows
    from ..bridge.teacher import Teacher, seeds_of
    from ..demo.checkpoint import read_text_encoder

    encoder = read_text_encoder(path)
    rows, table = word_rows(encoder.buckets, encoder.length), encoder.words.weight

    def encode(text: str) -> list[Entry]:
        return [(encoder.read([text]), {})]

    spec = TeacherSpec(
        "bag-of-words", table.shape[1], len(table), rows.layout, tokenizers=("words",)
    )
    return encode, Teacher(spec, rows, seeds_of(table), encode("")[0])


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
    teacher = TeacherSpec(
        spec.name,
        spec.state_width,
        len(table),
        layout,
        taps=widths,
        llm=spec,
        tokenizers=(spec.name,),
    )
    return Teacher(teacher, RowMaker(layout, tokenizer), seeds_of(table.float().cpu()))
