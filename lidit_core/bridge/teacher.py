"""What a recording has to say of its encoder, so that a bridge can be trained from it.

`teacher.safetensors` lies in the recording's folder: the encoder's tokenizer, the layout of its
rows, and 128 numbers for each id, the principal components of its own table of token embeddings.
It also holds the empty prompt's conditioning as exact as it was given, and of a host's encoder the
prompts that the host reads as more than plain text. The metadata say under which licence each
tokenizer is.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import LiDiTError, check, first_line, listed
from ..io.conditioning import Entry, pack_entry, unpack_entry
from ..io.records import read_json
from ..io.tensors import read_safetensors, write_safetensors
from ..io.terms import terms_for, tokenizer_terms
from .config import FORMAT, SEEDS, TeacherSpec
from .layout import AnyRows, RowMaker, TokenLayout, joined

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NAME, TEACHER_KEY, EMPTY = "teacher.safetensors", "teacher", "empty"
UNREAD, TOKENIZER = "unread", "tokenizer"
PART = 8192  # rows of a table that are in double precision at a time


@dataclass(frozen=True, eq=False)
class Teacher:
    """A text encoder without its weights.

    Args:
        seeds: (ids, SEEDS) bfloat16.
        empty: the empty prompt's conditioning, exactly; None = as the probes of a recording of an
            older version have it.
        unread: numbers of the recorded prompts that `rows` does not read as the encoder did.
    """

    spec: TeacherSpec
    rows: AnyRows
    seeds: Tensor
    empty: Entry | None = None
    unread: tuple[int, ...] = ()


@torch.no_grad()
def seeds_of(table: Tensor) -> Tensor:
    """The first 128 principal components of a table of token embeddings (ids, width), bfloat16.

    They are scaled so that their mean square is 1; of a narrower table the last are 0.
    """
    check(
        table.ndim == 2 and bool(table.isfinite().all()),
        f"a table of token embeddings has shape {tuple(table.shape)}; expected finite numbers "
        "(ids, width)",
    )
    parts, width = table.split(PART), table.shape[1]
    mean = sum((part.double().sum(0) for part in parts), _zeros(width)) / len(table)
    squares = sum((_square(part.double() - mean) for part in parts), _zeros(width, width))
    _, axes = torch.linalg.eigh(squares)
    axes = axes.flip(1)[:, :SEEDS]
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()  # one of two signs
    found = torch.cat([(part.double() - mean) @ axes for part in parts])
    found = found / (found.square().sum(1).mean() / SEEDS).sqrt().clamp(min=1e-12)
    return torch.nn.functional.pad(found, (0, SEEDS - found.shape[1])).to(torch.bfloat16)


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64)


def _square(rows: Tensor) -> Tensor:
    return rows.T @ rows


def write_teacher(folder: str | Path, teacher: Teacher) -> Path:
    """Write what is known of an encoder beside its recording."""
    path = Path(folder) / NAME
    tensors = {"seeds": teacher.seeds, **packed_rows(teacher.rows)}
    spec = teacher.spec
    told = {TEACHER_KEY: json.dumps({"format": FORMAT, **asdict(spec)}, ensure_ascii=False)}
    told |= {**terms_for(spec.known_as), **tokenizer_terms(spec.tokenizers or [spec.name])}
    if teacher.unread:
        tensors[UNREAD] = torch.tensor(teacher.unread)
    if teacher.empty is not None:
        kept, told[EMPTY] = pack_entry(teacher.empty, EMPTY)
        tensors |= kept
    write_safetensors(path, tensors, told)
    return path


def read_teacher(folder: str | Path) -> Teacher:
    """What lies beside a recording.

    Raises:
        LiDiTError: nothing does, or it is damaged.
    """
    path = Path(folder) / NAME
    check(
        path.is_file(),
        f"{folder} does not say what its encoder's rows stand for: {NAME} is missing; record with "
        "`lidit record`, or with Record Conditioning, which says on the node why it cannot",
    )
    tensors, metadata = read_safetensors(path)
    spec = read_json(TeacherSpec, metadata.get(TEACHER_KEY, ""), "the teacher", f"{path}", FORMAT)
    beside = (EMPTY, TOKENIZER)
    own = {k: v for k, v in tensors.items() if k.partition(".")[0] not in beside}
    unread = own.pop(UNREAD, torch.zeros(0, dtype=torch.int64))
    check(
        set(own) == {"seeds"}
        and tuple(own["seeds"].shape) == (spec.vocabulary, SEEDS)
        and unread.ndim == 1,
        f"{path} holds {listed(sorted(tensors))}; expected seeds ({spec.vocabulary}, {SEEDS}) "
        "and tokenizer: record the same prompts once more",
    )
    rows = unpacked_rows(spec.layouts, tensors, path)
    empty = unpack_entry(metadata[EMPTY], tensors, path) if EMPTY in metadata else None
    return Teacher(spec, rows, own["seeds"], empty, tuple(unread.tolist()))


def packed_rows(rows: AnyRows) -> dict[str, Tensor]:
    """The tokenizers of all encoders, for a file."""
    return {_name(n): packed(maker.tokenizer) for n, maker in enumerate(rows.makers)}


def unpacked_rows(
    layouts: Sequence[TokenLayout], tensors: Mapping[str, Tensor], path: str | Path
) -> AnyRows:
    """What makes the rows of a file's encoders.

    Raises:
        LiDiTError: a tokenizer is missing or damaged.
    """
    for n in range(len(layouts)):
        check(_name(n) in tensors, f"{path} lacks its {_name(n)}; fetch or write it again")
    return joined(
        [RowMaker(own, unpacked(tensors[_name(n)], path)) for n, own in enumerate(layouts)]
    )


def _name(number: int) -> str:
    return f"{TOKENIZER}.{number}" if number else TOKENIZER


def packed(tokenizer: Tokenizer) -> Tensor:
    """A tokenizer as bytes (n,) uint8."""
    data = zlib.compress(tokenizer.to_str().encode("utf-8"), 9)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def unpacked(data: Tensor, path: str | Path) -> Tokenizer:
    """The tokenizer of such bytes.

    Raises:
        LiDiTError: they are none.
    """
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(zlib.decompress(data.numpy().tobytes()).decode("utf-8"))
    except Exception as error:  # tokenizers raises no class of its own
        raise LiDiTError(
            f"the tokenizer in {path} is damaged ({first_line(error)}); fetch or write it again"
        ) from error
