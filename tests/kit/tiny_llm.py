"""Tiny random LLMs and encoders of real classes with small real tokenizers, built in a moment."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, set_seed

CHATML = (  # as SmolLM2's and Qwen2.5's: a default system prompt where none is given
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
)
NO_SYSTEM = (  # as Gemma 2's: refuses a system role, begins with the BOS, trims the content
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ '<start>' + m['role'] + '\n' + m['content'] | trim + '<end>\n' }}{% endfor %}"
)
IN_PARTS = (  # as LLaVA 1.5's: reads a turn's text parts, and leaves the BOS to the tokenizer
    "{% for m in messages %}{{ m['role'].upper() + ': ' }}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'text') %}{{ c['text'] }}{% endfor %}"
    "{{ ' ' }}{% endfor %}"
)
PHI = (  # as Phi 3's
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}"
    "{% endfor %}"
)
CORPUS = [
    "Describe the image by its objects: a red cat left of two dogs on a blue background",
    "Describe the image by detailing the color, shape, size, texture, quantity, text, "
    "and spatial relationships of the objects: three apples and a banana above a car",
    "You are an assistant that describes images precisely. user system assistant",
    "objects: a cat objects: an apple objects: two bees",
    "两只猫和一个苹果在黄色背景上",
]
SMOLLM2 = "SmolLM2-135M-Instruct"
SIZES_OF_SMOLLM2 = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
SIZES_OF_SMOLLM2 |= {"num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152}


def smollm2_without_weights(cache: Path) -> None:
    """Put the sizes of SmolLM2 where LLMs are found; a plan asks for no more."""
    folder = cache / "llm" / SMOLLM2
    folder.mkdir(parents=True)
    config = {"model_type": "llama", **SIZES_OF_SMOLLM2}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def chat_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with a ChatML template and no BOS of its own (Qwen, SmolLM2)."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = BpeTrainer(
        vocab_size=420, special_tokens=names, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHATML,
    )


def plain_tokenizer(chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """BPE without a pre-tokenizer, so that words merge, with a BOS and byte fallback (Gemma)."""
    names = ["<pad>", "<bos>", "<start>", "<end>"]
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    core = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True))
    core.normalizer = normalizers.Replace(" ", "▁")
    trainer = BpeTrainer(vocab_size=640, special_tokens=names + fallback, show_progress=False)
    core.train_from_iterator([text.replace(" ", "▁") for text in CORPUS], trainer)
    core = _without_special_bytes(core, fallback)
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    core.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", core.token_to_id("<bos>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<bos>",
        pad_token="<pad>",
        additional_special_tokens=["<start>", "<end>"],
        chat_template=chat_template,
    )


def metaspace_tokenizer() -> PreTrainedTokenizerFast:
    """BPE that puts a blank before a text's first word alone; specials strip what follows."""
    core = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    core.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = BpeTrainer(vocab_size=400, special_tokens=["<unk>"], show_progress=False)
    core.train_from_iterator([*CORPUS, "\n"], trainer)
    names = ("<|system|>", "<|user|>", "<|end|>")
    core.add_special_tokens([AddedToken(name, rstrip=True, special=True) for name in names])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", eos_token="<|end|>", chat_template=PHI
    )


def _without_special_bytes(core: Tokenizer, fallback: list[str]) -> Tokenizer:
    """The same BPE whose byte tokens are no added tokens, so that they are not found in text."""
    import json

    data = json.loads(core.to_str())
    kept = [token for token in data["added_tokens"] if token["content"] not in fallback]
    return Tokenizer.from_str(json.dumps({**data, "added_tokens": kept}))


SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,  # blocks that change the residual stream
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WINDOW = {"sliding_window": 8}  # shorter than the texts, so that windows matter
FAMILIES = {
    "Llama": {},
    "Qwen2": {},
    "Qwen3": {"head_dim": 8},
    "Gemma2": {"head_dim": 8, "query_pre_attn_scalar": 8, **WINDOW},
    "Gemma3Text": {"head_dim": 8, "query_pre_attn_scalar": 8, **WINDOW},
    "Mistral": {"head_dim": 8, **WINDOW},
    "Phi3": {},
}

HYBRIDS = {  # which keep more than keys and values from one token to the next
    "Lfm2": {"layer_types": ["conv", "full_attention"] * 3, "block_auto_adjust_ff_dim": False},
    "Qwen3Next": {
        "layer_types": ["linear_attention", "full_attention"] * 3, "head_dim": 8,
        "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4, "num_experts": 4, "num_experts_per_tok": 2,
        "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
    },
    "FalconH1": {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8},
}  # fmt: skip


def tiny_config(family: str, vocabulary: int, **changes):
    kind = getattr(pytest.importorskip("transformers"), f"{family}Config", None)
    if kind is None:
        pytest.skip(f"this release of transformers has no {family}")
    return kind(
        **{**SIZES, **{**FAMILIES, **HYBRIDS}.get(family, {}), "vocab_size": vocabulary, **changes}
    )


def save_llm(
    folder: Path,
    family: str = "Llama",
    tokenizer=None,
    shard: str = "1GB",
    seed: int = 0,
    **changes,
) -> Path:
    """Write a tiny random LLM as a Hugging Face model folder, head included."""
    set_seed(seed)
    tokenizer = tokenizer or chat_tokenizer()
    model = AutoModelForCausalLM.from_config(tiny_config(family, len(tokenizer), **changes))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.add_(0.3 * torch.randn_like(weight))
    model.save_pretrained(folder, max_shard_size=shard)
    tokenizer.save_pretrained(folder)
    return folder


@functools.lru_cache(maxsize=1)
def reference_model(folder: Path) -> torch.nn.Module:
    """transformers' own whole model, float32; loaded once for all texts of a test."""
    return AutoModelForCausalLM.from_pretrained(folder).float().eval()


def reference_states(folder: Path, ids: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    """transformers' own `hidden_states` of the whole model for one unpadded text, float32."""
    with torch.no_grad():
        out = reference_model(folder)(torch.tensor([ids]), output_hidden_states=True)
    return tuple(states[0] for states in out.hidden_states)


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest over tokens of |difference| / |theirs|."""
    return ((ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)).max().item()


ENCODER_BLOCKS, WIDTH = 4, 32  # of encoders
BERT = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": ENCODER_BLOCKS,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.15,
}
T5 = {
    "d_model": WIDTH,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": ENCODER_BLOCKS,
    "num_decoder_layers": ENCODER_BLOCKS + 1,
    "num_heads": 4,
    "initializer_factor": 3.0,
    "decoder_start_token_id": 0,
}
ENCODERS = {"Bert": BERT, "Roberta": BERT, "XLMRoberta": BERT, "T5": T5, "MT5": T5, "UMT5": T5}


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
        **{**ENCODERS[kind], "vocab_size": len(tokenizer), "pad_token_id": 0, **changes}
    )
    model = getattr(transformers, f"{kind}Model")(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name.lower():
                weight.add_(0.3 * torch.randn_like(weight))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
