"""Show how a prompt is read: tokens, the prompt's span in them, and what was cut.

The language models and their templates are those of the model. With --out the hidden states are
kept as a safetensors file, as Save Conditioning in ComfyUI writes it: put it into the folder
models/conditioning there, and Load Conditioning lists it. With --next each language model also
tells what it would write after the prompt, with the model's instruction and without any (the
paper's Figure 4): what it is about to write is what its states hold.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .generate import add_emphasis, add_for_llms

HELP = "show how a prompt is read, and keep its hidden states"

EXAMPLES = """\
examples:
  lidit encode "a cat to the left of a dog"
  lidit encode "一只猫" --model stickers-duo
  lidit encode "a cat" --out cat.safetensors
  lidit encode "a cat and (a dog:1.5)" --emphasis --out dog.safetensors
  lidit encode "a cat to the left of a dog" --next 24
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("prompt", help="what to encode")
    add("--model", default="stickers", metavar="NAME", help="a name or a checkpoint (stickers)")
    add(
        "--llm",
        action="append",
        default=[],
        metavar="[NAME=]LLM",
        help="language model, as for generate (those of the model)",
    )
    add("--out", type=Path, metavar="FILE", help="keep the hidden states here")
    add_emphasis(parser)
    add("--next", type=int, metavar="N", help="tell what would be written next, in N tokens")
    add("--device", metavar="NAME", help="cpu, cuda, mps … (NVIDIA or AMD GPU, else cpu)")
    add_for_llms(parser)


def run(args: argparse.Namespace) -> int:
    from ..branches import choose_llms, open_encoders
    from ..checkpoints.lidit import read_config
    from ..errors import check
    from ..figures.tokens import places_told
    from ..io.conditioning import EncodedPrompts, write_encoded
    from ..io.prompts import without_halves
    from ..model.prompt_text import BranchText, PromptText, encoded_prompt, reading_of
    from ..pipeline import find_device
    from ..shipped import find_model
    from ..text.emphasis import read_emphasis, read_prompt
    from ..text.encoder import pad_states

    check(
        args.next is None or 1 <= args.next <= 4096,
        f"--next is {args.next}; expected 1 to 4096 tokens",
    )
    path, named = find_model(args.model)
    config = read_config(path)
    chosen = choose_llms(config, args.llm, named)
    device = find_device(args.device)
    encoders = open_encoders(config, chosen, device, args.cache, args.spread)
    read = []
    for branch, encoder in encoders.items():
        spec = config.llms[branch]
        states = read_prompt(encoder, args.prompt, args.emphasis)
        reading = reading_of(spec.block, spec.template)
        kept = pad_states([states.cpu()])
        places = places_told(args.prompt, states, args.emphasis)
        read.append(BranchText(spec.name, kept, reading=reading, used=states.used, places=places))
        print(_describe(spec, args.prompt, states, args.emphasis))
        if args.next:
            plain = read_emphasis(args.prompt).text if args.emphasis else args.prompt
            print(_continued(encoder, plain, args.next))
    if args.out:
        prompt = without_halves(args.prompt)  # as the renderer reads it
        whole = encoded_prompt(PromptText(tuple(read)), prompt)
        write_encoded(args.out, EncodedPrompts([whole], {"model": Path(args.model).name}))
        print(args.out)
    return 0


def _continued(encoder, prompt: str, tokens: int) -> str:
    """What an LLM would write next, by its template and by none."""
    from ..text.expansion import continued

    llm, own = encoder.encoder().llm, encoder.template
    told = [(own.name, own), ("none", "none")] if own.name != "none" else [("none", own)]
    lines = (
        f"  next     {name!r}: {continued(llm, encoder.source, prompt, template, tokens)!r}"
        for name, template in told
    )
    return "\n".join(lines)


def _describe(spec, prompt: str, states, emphasis: bool) -> str:
    from ..text.notes import prompt_notes

    first, end = states.span
    place = f"{first} to {end - 1}" if end > first else "empty"
    length, width = states.hidden.shape
    dtype = str(states.hidden.dtype).removeprefix("torch.")
    told = *prompt_notes(prompt, states, emphasis), spec.length_note(states.used)
    notes = [note for note in told if note]
    lines = [
        spec.name,
        f"  tokens   {states.used} of the prompt's {states.total} are read "
        f"(at most {states.budget})",
        f"  text     {length} tokens with the template; the prompt is {place}",
        f"  states   {length} x {width}, {dtype}",
        *(f"  note     {note}" for note in notes),
    ]
    return "\n".join(lines)
