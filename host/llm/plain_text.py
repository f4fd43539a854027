"""The host's tokens of a prompt for an LLM: the text itself, tokenised where it is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...lidit_core.errors import LiDiTError
from ..node_notes import note

TEMPLATE = "lidit_template"  # of tokens: another template than the CLIP's own
EMPHASIS = "lidit_emphasis"  # of tokens: whether the text is read for weights, (word:1.3)
OURS = (TEMPLATE, EMPHASIS)

WORD_IDS = "return_word_ids"  # whether the number of each token's word is asked for
PICTURES_AND_SOUND = ("images", "image", "image_embeds", "video", "audio")
ASIDE = ("min_length", "skip_template", "thinking")  # what changes no text


class NoSuchTokens(LiDiTError, KeyError):
    """A node looked for the tokens of another model's text encoder."""

    def __init__(self, encoder: str) -> None:
        super().__init__(
            f"this node is for a text encoder {encoder!r} of another model, and this CLIP is an "
            "LLM; encode the prompt with LI-DiT Text Encode or CLIP Text Encode"
        )

    __str__ = Exception.__str__  # KeyError's would put it in quotes


class PlainTokens(dict):
    """The host's tokens by text encoder, of which there is one here."""

    def __missing__(self, encoder: str):
        raise NoSuchTokens(encoder)


class PlainText:
    """The host's tokenizer, which leaves text alone: weights, embeddings and BREAK are text.

    Asked for with `EMPHASIS`, weights are read where the LLM reads the text.
    """

    def __init__(self, embedding_directory=None, tokenizer_data=None):
        pass

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **options) -> dict:
        check_options({**options, WORD_IDS: return_word_ids})
        tokens = PlainTokens(lidit=[[(text, 1.0)]])
        tokens.update({name: options[name] for name in OURS if options.get(name) is not None})
        return tokens

    def state_dict(self) -> dict:
        return {}


def check_options(options: Mapping[str, Any], reader: str = "an LLM") -> None:
    """Refuse pictures and sound, and tell of other values that nodes for other models hand on.

    Args:
        reader: what this CLIP is, for sentences.
    """
    if options.get(WORD_IDS):
        raise LiDiTError(
            "this node asks the CLIP for the number of each word, as PhotoMaker does to put a "
            f"picture in a word's place, and {reader} of the LI-DiT nodes reads text alone; encode "
            "the prompt with LI-DiT Text Encode or CLIP Text Encode"
        )
    for name, value in options.items():
        if name == WORD_IDS or name in OURS or name in ASIDE or not _is_given(value):
            continue
        if name in PICTURES_AND_SOUND:
            raise LiDiTError(
                f"this node hands {name} to the CLIP, and {reader} of the LI-DiT nodes reads text "
                "alone; encode the prompt with LI-DiT Text Encode or CLIP Text Encode"
            )
        note(f"{name} is not read: this CLIP is {reader}, which reads the prompt alone")


def _is_given(value: Any) -> bool:
    return value is not None and (not hasattr(value, "__len__") or len(value) > 0)


def plain_text_of(tokens: dict) -> str:
    """The prompt that `PlainText` was given."""
    return " ".join(piece[0] for row in tokens["lidit"] for piece in row)
