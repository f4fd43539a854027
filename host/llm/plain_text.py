"""The host's tokens of a prompt for an LLM: the text itself, tokenised where it is read."""

from __future__ import annotations

TEMPLATE = "lidit_template"  # of tokens: another template than the CLIP's own


class PlainText:
    """The host's tokenizer, which leaves text alone: weights, embeddings and BREAK are text."""

    def __init__(self, embedding_directory=None, tokenizer_data=None):
        pass

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **options) -> dict:
        tokens = {"lidit": [[(text, 1.0)]]}
        template = options.get(TEMPLATE)
        return tokens if template is None else {**tokens, TEMPLATE: template}

    def state_dict(self) -> dict:
        return {}


def plain_text_of(tokens: dict) -> str:
    """The prompt that `PlainText` was given."""
    return " ".join(piece[0] for row in tokens["lidit"] for piece in row)
