"""Tiny random encoders of real classes: BERT's kind, and whole models of T5's kind."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from tiny_llm import chat_tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast, set_seed

BLOCKS, WIDTH = 4, 32
BERT = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.15,
}
T5 = {
    "d_model": WIDTH,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": BLOCKS,
    "num_decoder_layers": BLOCKS + 1,
    "num_heads": 4,
    "initializer_factor": 3.0,
    "decoder_start_token_id": 0,
}
KINDS = {"Bert": BERT, "Roberta": BERT, "XLMRoberta": BERT, "T5": T5, "MT5": T5, "UMT5": T5}


def encoder_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """Texts stand between [CLS] and [SEP] (BERT), or before an end token alone (T5)."""
    core = chat_tokenizer().backend_tokenizer
    text = "$A <|im_end|>" if kind.endswith("T5") else "<|im_start|> $A <|im_end|>"
    marks = [(name, core.token_to_id(name)) for name in ("<|im_start|>", "<|im_end|>")]
    core.post_processor = TemplateProcessing(single=text, special_tokens=marks)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        cls_token="<|im_start|>",
        sep_token="<|im_end|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )


def save_encoder(folder: Path, kind: str = "Bert", seed: int = 0, **changes) -> Path:
    """Write one as a model folder; of T5's kind encoder and decoder, which share embeddings."""
    set_seed(seed)
    tokenizer = encoder_tokenizer(kind)
    config = getattr(transformers, f"{kind}Config")(
        **{**KINDS[kind], "vocab_size": len(tokenizer), "pad_token_id": 0, **changes}
    )
    model = getattr(transformers, f"{kind}Model")(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name.lower():
                weight.add_(0.3 * torch.randn_like(weight))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
