"""Released LLMs by the shapes of their tensors, with what shapes do not say.

The values are those of the models' own config.json on the Hugging Face hub.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Shapes(NamedTuple):
    """What a decoder's tensors say of its sizes."""

    kind: str  # "llama", "qwen2", "qwen3", "gemma2" or "gemma3", by the parts of a block
    vocabulary: int
    width: int
    feed: int  # width of the feed-forward
    query: int  # channels of all queries
    key: int  # channels of all keys
    pictures: bool  # whether a part for pictures adds to the decoder's blocks


@dataclass(frozen=True)
class Released:
    """One released LLM, or several of the same numbers.

    Args:
        name: as its card has it.
        blocks: of the whole LLM; a file may hold fewer.
        head: channels of one head.
        fields: of its config.json beside the sizes.
        called: a pattern of its files' names, where others have the same shapes.
    """

    name: str
    blocks: int
    shapes: Shapes
    head: int
    fields: Mapping = field(default_factory=dict)
    called: str = ""

    def config(self, tied: bool) -> dict:
        """The LLM's config.json, in the words that all releases of transformers read."""
        kind = self.shapes.kind
        return {
            "model_type": "gemma3_text" if kind == "gemma3" else kind,
            "vocab_size": self.shapes.vocabulary,
            "hidden_size": self.shapes.width,
            "intermediate_size": self.shapes.feed,
            "num_hidden_layers": self.blocks,
            "num_attention_heads": self.shapes.query // self.head,
            "num_key_value_heads": self.shapes.key // self.head,
            "head_dim": self.head,
            "tie_word_embeddings": tied,
            "bos_token_id": None,
            "eos_token_id": None,
            "pad_token_id": None,
            **_KINDS[kind],
            **self.fields,
        }


def _gemma3(blocks: int, window: int, stretched: bool, scalar: int = 256) -> dict:
    kinds = ["full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(blocks)]
    return {
        "sliding_window": window, "query_pre_attn_scalar": scalar, "layer_types": kinds,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0} if stretched else None,
    }  # fmt: skip


def _gemma2(blocks: int) -> dict:
    return {"layer_types": ["full_attention" if i % 2 else "sliding_attention"
                            for i in range(blocks)]}  # fmt: skip


GELU = "gelu_pytorch_tanh"
QWEN = {"hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1e6, "use_sliding_window": False,
        "max_position_embeddings": 32768}  # fmt: skip
_KINDS: dict[str, dict] = {
    "llama": {"hidden_act": "silu", "rms_norm_eps": 1e-5, "attention_bias": False,
              "mlp_bias": False, "max_position_embeddings": 131072},
    "qwen2": QWEN,
    "qwen3": {**QWEN, "attention_bias": False, "max_position_embeddings": 40960},
    "gemma2": {"hidden_activation": GELU, "hidden_act": GELU, "rms_norm_eps": 1e-6,
               "rope_theta": 1e4, "sliding_window": 4096, "query_pre_attn_scalar": 256,
               "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
               "attention_bias": False, "max_position_embeddings": 8192},
    "gemma3": {"hidden_activation": GELU, "hidden_act": GELU, "rms_norm_eps": 1e-6,
               "rope_theta": 1e6, "rope_local_base_freq": 1e4, "sliding_window_pattern": 6,
               "attention_bias": False, "max_position_embeddings": 131072},
}  # fmt: skip

LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}  # fmt: skip
LLAMA31 = {"rope_theta": 5e5, "rope_scaling": {**LLAMA3, "factor": 8.0}}
LLAMA32 = {"rope_theta": 5e5, "rope_scaling": {**LLAMA3, "factor": 32.0}}
LATER_QWEN = {"rope_theta": 5e6, "max_position_embeddings": 262144}
MISTRAL = {"max_position_embeddings": 131072}
SMOL = {"rope_theta": 1e5, "max_position_embeddings": 8192}
NOT_LATER = r"^(?!.*(2507|thinking|1m)).*qwen"


def _qwen2(name: str, blocks: int, *sizes: int) -> Released:
    shapes = Shapes._make(("qwen2", *sizes, False))
    return Released(name, blocks, shapes, 64 if sizes[1] < 1000 else 128, {}, NOT_LATER)


def _qwen3(name: str, blocks: int, *sizes: int) -> list[Released]:
    """The LLM, its later release with another base, and the tower of the one that sees."""
    plain, seeing = (Shapes._make(("qwen3", *sizes, pictures)) for pictures in (False, True))
    return [
        Released(name, blocks, plain, 128, {}, NOT_LATER),
        Released(f"{name}-2507", blocks, plain, 128, LATER_QWEN, r"2507"),
        Released(name.replace("Qwen3", "Qwen3-VL"), blocks, seeing, 128, LATER_QWEN),
    ]


def _shapes(kind: str, *sizes: int) -> Shapes:
    return Shapes._make((kind, *sizes, False))


RELEASED: tuple[Released, ...] = (
    _qwen2("Qwen2.5-0.5B", 24, 151936, 896, 4864, 896, 128),
    _qwen2("Qwen2.5-1.5B", 28, 151936, 1536, 8960, 1536, 256),
    _qwen2("Qwen2.5-3B", 36, 151936, 2048, 11008, 2048, 256),
    _qwen2("Qwen2.5-7B", 28, 152064, 3584, 18944, 3584, 512),
    _qwen2("Qwen2.5-14B", 48, 152064, 5120, 13824, 5120, 1024),
    _qwen2("Qwen2.5-32B", 64, 152064, 5120, 27648, 5120, 1024),
    *_qwen3("Qwen3-0.6B", 28, 151936, 1024, 3072, 2048, 1024),
    *_qwen3("Qwen3-1.7B", 28, 151936, 2048, 6144, 2048, 1024),
    *_qwen3("Qwen3-4B", 36, 151936, 2560, 9728, 4096, 1024),
    *_qwen3("Qwen3-8B", 36, 151936, 4096, 12288, 4096, 1024),
    *_qwen3("Qwen3-14B", 40, 151936, 5120, 17408, 5120, 1024),
    *_qwen3("Qwen3-32B", 64, 151936, 5120, 25600, 8192, 1024),
    Released("gemma-2-2b", 26, _shapes("gemma2", 256000, 2304, 9216, 2048, 1024), 256, _gemma2(26)),
    Released("gemma-2-9b", 42, _shapes("gemma2", 256000, 3584, 14336, 4096, 2048), 256,
             _gemma2(42)),
    Released("gemma-3-270m", 18, _shapes("gemma3", 262144, 640, 2048, 1024, 256), 256,
             {**_gemma3(18, 512, False), "max_position_embeddings": 32768}),
    Released("gemma-3-1b", 26, _shapes("gemma3", 262144, 1152, 6912, 1024, 256), 256,
             {**_gemma3(26, 512, False), "max_position_embeddings": 32768}),
    Released("gemma-3-4b", 34, _shapes("gemma3", 262208, 2560, 10240, 2048, 1024), 256,
             _gemma3(34, 1024, True)),
    Released("gemma-3-12b", 48, _shapes("gemma3", 262208, 3840, 15360, 4096, 2048), 256,
             _gemma3(48, 1024, True)),
    Released("gemma-3-27b", 62, _shapes("gemma3", 262208, 5376, 21504, 4096, 2048), 128,
             _gemma3(62, 1024, True, 168)),
    Released("Llama-3-8B", 32, _shapes("llama", 128256, 4096, 14336, 4096, 1024), 128,
             {"rope_theta": 5e5, "max_position_embeddings": 8192}, r"llama.?3(?!.?[1-9](?![\db]))"),
    Released("Llama-3.1-8B", 32, _shapes("llama", 128256, 4096, 14336, 4096, 1024), 128, LLAMA31,
             r"llama.?3.?1(?!\d)"),
    Released("llava-llama-3-8b", 32, _shapes("llama", 128320, 4096, 14336, 4096, 1024), 128,
             {"rope_theta": 5e5, "max_position_embeddings": 8192}),
    Released("Llama-3.2-1B", 16, _shapes("llama", 128256, 2048, 8192, 2048, 512), 64, LLAMA32),
    Released("Llama-3.2-3B", 28, _shapes("llama", 128256, 3072, 8192, 3072, 1024), 128, LLAMA32),
    Released("Mistral-Nemo-2407", 40, _shapes("llama", 131072, 5120, 14336, 4096, 1024), 128,
             {**MISTRAL, "rope_theta": 1e6}),
    Released("Mistral-Small-3.2-24B", 40, _shapes("llama", 131072, 5120, 32768, 4096, 1024), 128,
             {**MISTRAL, "rope_theta": 1e9}, r"^(?!.*2501).*(mistral.?3|small.?3|250[36]|flux)"),
    Released("Mistral-Small-24B-2501", 40, _shapes("llama", 131072, 5120, 32768, 4096, 1024), 128,
             {"rope_theta": 1e8, "max_position_embeddings": 32768}, r"2501"),
    Released("SmolLM2-135M", 30, _shapes("llama", 49152, 576, 1536, 576, 192), 64, SMOL,
             r"smollm2"),
    Released("SmolLM2-360M", 32, _shapes("llama", 49152, 960, 2560, 960, 320), 64, SMOL,
             r"smollm2"),
    Released("SmolLM2-1.7B", 24, _shapes("llama", 49152, 2048, 8192, 2048, 2048), 64,
             {"rope_theta": 130000.0, "max_position_embeddings": 8192}, r"smollm2"),
)  # fmt: skip


def candidates(shapes: Shapes, blocks: int) -> list[Released]:
    """The released LLMs with these shapes, cut ones of fewer blocks included."""
    found = [one for one in RELEASED if one.shapes == shapes and blocks <= one.blocks]
    return [one for one in found if blocks == one.blocks] or found


def named(found: list[Released], file: str) -> list[Released]:
    """The released LLMs that a file's name allows."""
    return [one for one in found if re.search(one.called, file.lower())]
