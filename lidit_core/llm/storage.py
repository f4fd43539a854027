"""The class of numbers in which an LLM's weights are stored: float, fp8, int8, q8 to q1 of a GGUF.

Only the blocks' matrices count. A quantised file often keeps its embeddings in more bits, and most
of them some matrices; the class of a block is that of most of its numbers, the class of an LLM that
of most of the blocks that are read.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

FLOAT = "float"  # of 16 bits or more
BLOCK = re.compile(r"(?:^|\.)(?:layers?|h|blocks?|blk)\.(\d+)\.")  # in the names of tensors
PLAIN = ("F64", "F32", "F16", "BF16")
KINDS = (  # what stands before a number of bits, and the class
    (re.compile(r"W(\d)A\d"), "int"),  # weights and activations, as ComfyUI's layouts are named
    (re.compile(r"FP(\d)|^F(8)_|FLOAT(8)"), "fp"),
    (re.compile(r"INT(\d)|^I(8)$"), "int"),
    (re.compile(r"Q(\d)"), "q"),
)
GGML = {  # ggml's types, by their numbers in a GGUF file
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1",
    10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS",
    17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S",
    23: "IQ4_XS", 24: "I8", 28: "F64", 29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0",
    39: "MXFP4",
}  # fmt: skip


def class_of(kind: str) -> str:
    """The class of a dtype as safetensors, ggml or ComfyUI's layouts name it; "" = not known."""
    kind = kind.upper()
    if kind in PLAIN:
        return FLOAT
    for pattern, name in KINDS:
        if found := pattern.search(kind):
            return name + next(filter(None, found.groups()))
    return ""


def by_block(tensors: Iterable[tuple[str, Sequence[int], str]]) -> list[str]:
    """The class of each block, "" where that is not known.

    Args:
        tensors: name, shape and class of each tensor of an LLM.
    """
    counts: dict[int, Counter[str]] = defaultdict(Counter)
    for name, shape, kind in tensors:
        if (found := BLOCK.search(name)) and len(shape) > 1:
            counts[int(found[1])][kind] += math.prod(shape)
    return [_most(counts[block]) for block in sorted(counts)]  # a name may say any number


def of_blocks(classes: Sequence[str], kept: int | None = None) -> str:
    """The class of an LLM of which the first `kept` blocks are read; "" = not known."""
    return _most(Counter(classes[:kept]))


def _most(counts: Counter[str]) -> str:
    return counts.most_common(1)[0][0] if counts else ""
