"""Whether a checkpoint and a configuration speak of the same LLM; asked before it is built."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ...errors import check, is_whole, shown
from .checkpoint import Checkpoint
from .stored import PLAIN, Stored

SIZES = (  # of a configuration, none of which is larger than a tensor's largest side
    *("hidden_size", "intermediate_size", "vocab_size", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "num_local_experts", "num_experts", "n_routed_experts"),
)
MOST_BLOCKS = 10_000  # of any LLM; the files themselves are asked later
BLOCKS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")  # as configurations say it
LONGEST = 1 << 28  # tokens of a context; more is no number that an LLM was trained for
NUMBERED = re.compile(r"\.?(\d+)\.")
BUFFERS = re.compile(  # that older checkpoints keep, and that are computed
    r"(rotary_emb\.inv_freq|rotary_emb\.(cos|sin)_cached|attn\.(masked_)?bias"
    r"|attention\.(masked_)?bias|embed_positions)$"
)
NEXT_TOKENS = ("num_nextn_predict_layers", "num_mtp_layers")  # blocks after the last one


def check_config(config, kept: int, checkpoint: Checkpoint, name: str) -> None:
    """Compare the sizes of a configuration with the tensors, before a model is made of them."""
    there = most_blocks(checkpoint.files)
    check(
        kept <= there,
        f"{kept} blocks of {name} are to run, which by its config.json has "
        f"{config.num_hidden_layers}, and its files hold {there}; expected files of one model of "
        "the usual layout, so download it again",
    )
    largest = _largest_side(checkpoint)
    for field in SIZES:
        value = _said(config, field)
        if isinstance(value, (list, tuple)):  # one a block
            value = max((v for v in value if isinstance(v, int)), default=None)
        check(
            value is None or (isinstance(value, int) and 0 <= value <= largest),
            f"the config.json of {name} has {field} {shown(value)} and the largest side of its "
            f"tensors is {largest}; expected files of one model, so download it again",
        )
    length = getattr(config, "max_position_embeddings", None)
    check(
        length is None or (isinstance(length, (int, float)) and 0 < length <= LONGEST),
        f"the config.json of {name} has max_position_embeddings {shown(length)}; expected 1 to "
        f"{LONGEST} tokens",
    )


def _said(config, field: str):
    """The value of a configuration's field; None where it differs from block to block (Gemma 4)."""
    try:
        return getattr(config, field, None)
    except Exception:  # of a class of transformers' own, which is no AttributeError
        return None


def check_stated(folder: Path, name: str) -> None:
    """Refuse a config.json whose number of blocks would keep transformers busy for ever."""
    try:
        data = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # transformers says what is wrong with it
        return
    for key, value in _members(data):
        check(
            not _endless(key, value),
            f"the config.json of {name} has {key} {shown(value)}; expected 1 to "
            f"{MOST_BLOCKS} blocks, so download it again",
        )


def _members(data: object) -> Iterator[tuple[str, Any]]:
    """Every key of a config.json with its value, those of the towers within towers too."""
    left = [data]
    while left:
        found = left.pop()
        if isinstance(found, dict):
            yield from found.items()
            left.extend(found.values())
        elif isinstance(found, list):
            left.extend(found)


def _endless(key: str, value: Any) -> bool:
    """Whether a key that counts blocks, by its name, has a number that no LLM has."""
    if key in BLOCKS and value is not None:
        return not (is_whole(value) and 0 < value <= MOST_BLOCKS)
    counts = key.endswith(("layers", "n_layer", "blocks", "depth"))
    return counts and isinstance(value, (int, float)) and not value <= MOST_BLOCKS


def most_blocks(names: Iterable[str]) -> int:
    """How many members the largest numbered list of a checkpoint's outer modules has."""
    lists: dict[str, set[str]] = defaultdict(set)
    for name in names:
        if found := NUMBERED.search(name):
            lists[name[: found.start()]].add(found[1])
    return max(map(len, lists.values()), default=0)


def _largest_side(checkpoint: Checkpoint) -> int:
    shapes = (checkpoint.shape(name) for name in checkpoint.files)
    return max((side for shape in shapes for side in shape), default=0)


def check_blocks(config, names: Iterable[str], place: str, total: int, name: str) -> None:
    """Refuse a checkpoint that has blocks which its configuration does not speak of.

    Args:
        place: what stands before a block's number, such as `model.layers.`.
        total: the blocks of the whole LLM by its configuration.
    """
    numbers = _numbers(names, place)
    later = max((getattr(config, key, None) or 0 for key in NEXT_TOKENS), default=0)
    check(
        len(numbers) <= total + later,
        f"the config.json of {name} asks for {total} blocks and its files hold {len(numbers)}; "
        "expected files of one model, so download it again",
    )


def _numbers(names: Iterable[str], place: str) -> set[str]:
    rest = (name[len(place) :] for name in names if name.startswith(place))
    return {number for number, dot, _ in (r.partition(".") for r in rest) if number.isdigit()}


def check_unread(
    names: Iterable[str], read: set[str], place: str, kept: int, ignored: Iterable[str], name: str
) -> None:
    """Refuse a checkpoint whose kept blocks have tensors that no module reads.

    Args:
        read: the names that are read.
        place: what stands before a block's number.
        ignored: patterns of names that the model's class says it does without.
    """
    blocks = tuple(f"{place}{number}." for number in range(kept))
    without = [*map(re.compile, ignored), BUFFERS]
    left = sorted(
        n
        for n in names
        if n not in read and n.startswith(blocks) and not any(p.search(n) for p in without)
    )
    check(
        not left,
        f"the blocks of {name} have {len(left)} tensors that are not read, the first "
        f"{left[0] if left else ''}; expected only those of its kind by its config.json, so get "
        "its files again, or as bfloat16",
    )


def check_widths(checkpoint: Checkpoint, name: str) -> None:
    """Refuse 8-bit weights where transformers converts names, and no scale could be followed."""
    packed = [n for n in checkpoint.files if Stored(n, checkpoint.files).kind not in PLAIN]
    packed = [n for n in packed if not BUFFERS.search(n)]
    check(
        not packed,
        f"the files of {name} are stored under other names than its kind's, and {len(packed)} "
        f"tensors, the first {packed[0] if packed else ''}, not as numbers of 16 bits or more; "
        "give its weights as bfloat16",
    )
