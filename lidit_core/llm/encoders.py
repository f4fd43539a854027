"""Encoders in an LLM's place: models of BERT's kind, and the encoder half of models of T5's kind.

Their tokens see the whole text, so no part of it is reused; and a text ends with a token of theirs.
"""

from __future__ import annotations

from typing import Any

from torch import nn

BERTS = ("bert", "roberta", "xlm-roberta")  # `model_type` of configurations
T5S = ("t5", "mt5", "umt5")


def is_encoder(config: object) -> bool:
    """Whether a configuration is of a model that is read as an encoder."""
    decodes = getattr(config, "is_decoder", False)
    return getattr(config, "model_type", "") in (*BERTS, *T5S) and not decodes


def class_of(config: object) -> Any:
    """The class of transformers' that makes the model of a configuration, or its encoder."""
    from transformers import AutoModel, AutoModelForTextEncoding

    return AutoModelForTextEncoding if getattr(config, "model_type", "") in T5S else AutoModel


def options_of(config: object) -> dict[str, bool]:
    """What that class is told beside the configuration: BERT's pooler is not read."""
    bert = is_encoder(config) and getattr(config, "model_type", "") in BERTS
    return {"add_pooling_layer": False} if bert else {}


def reading_half(module: nn.Module, config: object) -> nn.Module:
    """The part that reads: of T5's kind the stack of blocks, which has the embeddings too."""
    is_t5 = is_encoder(config) and getattr(config, "model_type", "") in T5S
    return module.get_submodule("encoder") if is_t5 else module
