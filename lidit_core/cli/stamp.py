"""Write into older files what newer ones record of their LLMs; the weights stay, byte for byte.

A LI-DiT, a refiner or an LLMDiff adapter then knows its LLMs by their weights too: the same LLM is
recognised under another name, and another one under the same name is told.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..text.spec import LLMSpec

    Fill = Callable[[LLMSpec], LLMSpec]

HELP = "write into older files what newer ones record of their LLMs"
EXAMPLES = """\
examples:
  lidit stamp finetuned.safetensors
  lidit stamp adapter.safetensors --llm SmolLM2-135M-Instruct=my-llm.gguf --longest-prompt 77
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", help="LI-DiTs, refiners, LLMDiff adapters")
    add(
        "--llm",
        action="append",
        default=[],
        metavar="NAME=SOURCE",
        help="where the LLM is that the files call NAME; by default under that name",
    )
    add(
        "--longest-prompt",
        action="append",
        default=[],
        metavar="[NAME=]TOKENS",
        help="of the longest prompt that an LLM read in training, where a file does not say",
    )


def run(args: argparse.Namespace) -> int:
    from ..errors import check

    sources = {}
    for text in args.llm:
        name, equals, source = text.partition("=")
        check(bool(equals and source), f"--llm is {text!r}; expected NAME=SOURCE")
        sources[name] = source
    longest = dict(_named_tokens(text) for text in args.longest_prompt)
    for file in args.files:
        for line in stamp(file, sources, longest):
            print(f"{file}: {line}")
    return 0


def _named_tokens(text: str) -> tuple[str, int]:
    """An LLM's name, "" = every other one, and a number of tokens."""
    from ..errors import check

    name, _, tokens = text.rpartition("=")
    check(
        tokens.isascii() and tokens.isdigit() and int(tokens) > 0,
        f"--longest-prompt is {text!r}; expected a number of tokens above 0, or NAME=TOKENS",
    )
    return name, int(tokens)


def stamp(
    path: str | Path,
    sources: Mapping[str, str] | None = None,
    longest: Mapping[str, int] | None = None,
) -> list[str]:
    """Complete what a file records of its LLMs; what it records already stays.

    Args:
        sources: where LLMs are, by the names in the file; by default under those names.
        longest: tokens of the longest prompt trained on, by LLM, "" = all others, where the file
            does not say.

    Returns:
        A line for each LLM on what the file records of it now.

    Raises:
        LiDiTError: the file holds no LI-DiT, refiner or adapter.
    """
    from ..errors import check
    from ..io.tensors import opened, write_metadata
    from ..io.terms import terms_for

    with opened(path) as file:
        metadata = dict(file.metadata() or {})
    found = [key for key in _kinds() if key in metadata]
    check(
        len(found) == 1,
        f"{path} holds no LI-DiT, refiner or LLMDiff adapter that this project wrote; expected "
        "one, so give the path of another file",
    )
    lines: list[str] = []
    whole, key = _kinds()[found[0]], found[0]
    names: list[str] = []

    def fill(spec: LLMSpec) -> LLMSpec:
        names.append(spec.name)
        tokens = longest or {}
        return _completed(spec, sources or {}, tokens.get(spec.name, tokens.get("")), lines)

    completed = whole(metadata[key], fill)
    stamped = {**metadata, key: completed, **terms_for(names)}
    if stamped != metadata:
        write_metadata(path, stamped)
    return lines


def _completed(spec: LLMSpec, sources: Mapping[str, str], longest: int | None, lines) -> LLMSpec:
    from ..errors import check
    from ..llm.loading import source_fingerprint

    known = source_fingerprint(sources.get(spec.name, spec.name))
    check(
        spec.name not in sources or bool(known),
        f"the weights of {sources.get(spec.name)!r} cannot be read for {spec.name}; give an LLM "
        "that `lidit encode` can load, after that has run once",
    )
    if spec.longest_prompt is None:
        spec = replace(spec, longest_prompt=longest)
    spec = replace(spec, fingerprint=spec.fingerprint or known)
    tokens = "unknown" if spec.longest_prompt is None else f"{spec.longest_prompt} tokens"
    weights = spec.fingerprint or "unknown, as it is not on this machine"
    lines.append(f"{spec.name}: weights {weights}; longest prompt {tokens}")
    return spec


def _kinds() -> dict[str, Callable[[str, Fill], str]]:
    """The function that completes the LLMs of each kind of file, by the kind's metadata key."""
    from ..checkpoints.lidit import CONFIG_KEY
    from ..checkpoints.refiner import REFINER_KEY
    from ..llmdiff.file import ADAPTER_KEY

    return {CONFIG_KEY: _lidit, REFINER_KEY: _refiner, ADAPTER_KEY: _adapter}


def _lidit(text: str, fill: Fill) -> str:
    from ..model.config import LiDiTConfig

    config = LiDiTConfig.from_json(text)
    llms: Sequence[LLMSpec] = tuple(map(fill, config.llms))
    return replace(config, llms=llms).to_json()


def _refiner(text: str, fill: Fill) -> str:
    from ..io.records import json_object, read_record
    from ..text.spec import LLMSpec

    data = json_object(text, "the description of the refiner")
    spec = fill(read_record(LLMSpec, data.get("llm"), "the refiner's llm"))
    return json.dumps({**data, "llm": asdict(spec)})


def _adapter(text: str, fill: Fill) -> str:
    from ..llmdiff.config import AdapterConfig

    config = AdapterConfig.from_json(text)
    return replace(config, llm=fill(config.llm)).to_json()
