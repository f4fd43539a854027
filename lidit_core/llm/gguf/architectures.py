"""The architectures of GGUF files that are read here; how metadata become a config.json.

What llama.cpp writes into a file is listed in its gguf-py/gguf/constants.py, and how it turns a
model's tensors in its convert_hf_to_gguf.py. Kinds that are not listed go through transformers'
own reader, see `foreign.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
BLOCK = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.qkv_proj": "attn_qkv",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "mlp.gate_up_proj": "ffn_up",
}  # fmt: skip
SANDWICH = {  # norms before and after each half of a block
    "post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}  # fmt: skip
SIZES = {
    "context_length": "max_position_embeddings", "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers", "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads", "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps", "rope.freq_base": "rope_theta",
}  # fmt: skip
HEAD = ("attention.key_length", "attention.value_length", "rope.dimension_count")
WITHOUT_EFFECT = {  # on a block's states: names, the head, and what is said again elsewhere
    "vocab_size", "final_logit_softcapping", "logit_scale", "rope.scaling.finetuned",
    "rope.dimension_sections", "n_deepstack_layers", "attention.sliding_window_pattern",
    "tensor_data_layout",
}  # fmt: skip


@dataclass(frozen=True)
class Architecture:
    """How the GGUF of one architecture is read.

    Args:
        model_type: transformers' name of the class that computes it.
        fields: of its config.json that no file states.
        keys: further metadata, and the fields that they become.
        names: of a block's parts here, and there where they differ from `BLOCK`.
        permuted: whether queries and keys lie in the order of llama.cpp's older rotary embedding.
        shifted: whether a norm's weight is stored with 1 added.
        scaled_rope: whether a scaling of the rotary embedding is understood.
    """

    model_type: str
    fields: Mapping = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    permuted: bool = False
    shifted: bool = False
    scaled_rope: bool = True

    def gguf_name(self, name: str) -> str | None:
        """A tensor's name in the file, by its name in transformers."""
        layer, _, leaf = name.rpartition(".")
        if layer in TOP:
            return f"{TOP[layer]}.{leaf}"
        if not layer.startswith("model.layers."):
            return None
        number, _, part = layer[len("model.layers.") :].partition(".")
        found = {**BLOCK, **self.names}.get(part)
        return found and f"blk.{number}.{found}.{leaf}"


SILU = {"hidden_act": "silu"}
GELU = {"hidden_activation": "gelu_pytorch_tanh", "hidden_act": "gelu_pytorch_tanh"}
WINDOW = {"attention.sliding_window": "sliding_window"}
CAPS = {"attn_logit_softcapping": "attn_logit_softcapping"}
SCALES = {
    "attention.scale": "attention_multiplier", "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
}  # fmt: skip
QWEN2 = {**SILU, "use_sliding_window": False}
GLM4 = {
    "post_attention_layernorm": "ffn_norm", "post_self_attn_layernorm": "post_attention_norm",
    "post_mlp_layernorm": "post_ffw_norm",
}  # fmt: skip
OLMO2 = {
    "post_attention_layernorm": "post_attention_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}

ARCHITECTURES = {
    "llama": Architecture("llama", SILU, permuted=True),
    "mistral3": Architecture("llama", SILU, permuted=True),
    "smollm3": Architecture("smollm3", {**SILU, "use_sliding_window": False}, permuted=True),
    "granite": Architecture("granite", SILU, SCALES, permuted=True),
    "qwen2": Architecture("qwen2", QWEN2),
    "qwen2vl": Architecture("qwen2", QWEN2),  # of text, all three positions are the same
    "qwen3": Architecture("qwen3", QWEN2),
    "qwen3vl": Architecture("qwen3", QWEN2),  # pictures alone add to its first blocks
    "gemma2": Architecture(
        "gemma2", GELU, {**WINDOW, **CAPS}, SANDWICH, shifted=True, scaled_rope=False
    ),
    "gemma3": Architecture("gemma3_text", GELU, WINDOW, SANDWICH, shifted=True),
    "phi3": Architecture("phi3", SILU, WINDOW),
    "glm4": Architecture("glm4", SILU, names=GLM4),
    "olmo2": Architecture("olmo2", SILU, names=OLMO2),
}
