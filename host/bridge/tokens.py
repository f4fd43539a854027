"""The tokens of a bridge's CLIP: the text, under every name that a node of the host looks for.

CLIP Text Encode for SDXL, FLUX and SD3 write what they were given for one of a model's encoders
under its name. A bridge writes one prompt's conditioning, so that these have to be the same; of
FLUX's two boxes, one for the rows and one for the pooled vector, it may write each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...lidit_core.errors import check, listed, shown
from ...lidit_core.io.prompts import without_halves
from ..llm.plain_text import WORD_IDS, check_options
from ..node_notes import note

TEXT = "lidit_bridge"
T5 = "t5xxl"  # the host's name for the second of FLUX's boxes


class BridgeTokens(dict):
    """A prompt; for whichever encoder a node asks, it is this."""

    def __missing__(self, encoder: str) -> list:
        return self[TEXT]


class BridgeText:
    """The host's tokenizer of a bridge's CLIP, which keeps the text."""

    def __init__(self, embedding_directory=None, tokenizer_data=None) -> None:
        pass

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **options: Any):
        check_options({**options, WORD_IDS: return_word_ids}, "a bridge")
        return BridgeTokens({TEXT: [[(without_halves(text), 1.0)]]})

    def state_dict(self) -> dict:
        return {}


def texts_of(tokens: Mapping[str, Any]) -> dict[str, str | None]:
    """The text of each encoder that a node named, and that of the others under ``TEXT``.

    SD3's node leaves an encoder out with an empty list: None.
    """
    check(
        TEXT in tokens,
        f"these tokens are of another CLIP ({listed(tokens, 5)}); tokenise the "
        "prompt with the CLIP that encodes it",
    )
    named = {name: _text_of(pieces) for name, pieces in tokens.items() if isinstance(pieces, list)}
    return {TEXT: named.pop(TEXT), **named}


def _text_of(pieces: list) -> str | None:
    return "".join(str(piece[0]) for chunk in pieces for piece in chunk) if pieces else None


def one_text(texts: Mapping[str, str | None]) -> str:
    """The prompt of all encoders; an empty box beside a written one does not count.

    Raises:
        LiDiTError: two boxes hold different prompts.
    """
    written = list(dict.fromkeys(text for text in texts.values() if text))
    check(
        len(written) < 2,
        f"this node's boxes hold different prompts, {shown(written[0] if written else '')} first, "
        "and a bridge writes the conditioning of one; write the same into each, or leave others "
        "empty",
    )
    if written and not all(texts.values()):
        note("an empty box for one of the encoders is filled with the prompt of the other")
    return written[0] if written else ""


def pair_of(texts: Mapping[str, str | None]) -> tuple[str, str] | None:
    """The prompts of the rows and of the pooled vector; None where FLUX's boxes agree."""
    rows, pooled = texts.get(T5), texts[TEXT]
    if texts.keys() != {TEXT, T5} or not rows or not pooled or rows == pooled:
        return None
    return rows, pooled


def unescaped(text: str) -> str:
    """The text as the host's tokenizers read it that know no weights: escapes are taken away."""
    return text.replace("\\)", ")").replace("\\(", "(")
