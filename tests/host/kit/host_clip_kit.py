"""Tiny LLMs as CLIPs of the host's own loaders, and the same weights as model folders for ours."""

from __future__ import annotations

import base64
import functools
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from clip_kit import DEFAULTS, PROMPTS
from safetensors.torch import load_file, save_file
from tiny_llm import CORPUS, chat_tokenizer, relative_error, save_llm

FP8 = torch.float8_e4m3fn
SETTINGS = {"template": "short", "layer": "-3", "token_budget": 96, "llm_name": ""}
CLASSES = {"qwen3": "Qwen3_06B", "mistral": "Mistral3Small24B", "gemma3": "Gemma3_4B"}
CLOSE = 1e-5  # of a token's state, relative
SIZES = {"intermediate_size": 96, "num_hidden_layers": 5, "num_key_value_heads": 2, "head_dim": 128}


@dataclass(frozen=True)
class Case:
    """One kind of LLM: what transformers calls it, and the host."""

    family: str  # of tiny_llm
    host: str  # the host's name of the text model, for its model options
    sizes: dict[str, Any]  # of both
    theirs: dict[str, Any] = field(default_factory=dict)  # of transformers alone


def _rope(theta: float, **more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta, **more}


QWEN_ROPE = {"rope_parameters": _rope(1e6), "rms_norm_eps": 1e-6, "max_position_embeddings": 32768}
CASES = {
    "qwen3": Case(
        "Qwen3", "qwen3_06b", {**SIZES, "hidden_size": 1024, "num_attention_heads": 4}, QWEN_ROPE
    ),
    "qwen2.5": Case(
        "Qwen2",
        "qwen25_3b",
        {**SIZES, "hidden_size": 512, "num_attention_heads": 4},
        {**QWEN_ROPE, "max_position_embeddings": 128000},
    ),
    "gemma3": Case(
        "Gemma3Text",
        "gemma3_4b",
        {**SIZES, "hidden_size": 128, "num_attention_heads": 2, "head_dim": 256}
        | {"num_key_value_heads": 1, "num_hidden_layers": 7},
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": _rope(1e4),
            },
            "query_pre_attn_scalar": 256,
            "sliding_window": 1024,
            "max_position_embeddings": 131072,
            "layer_types": [*["sliding_attention"] * 5, "full_attention", "sliding_attention"],
        },
    ),
    "mistral": Case(
        "Mistral",
        "mistral3_24b",
        {**SIZES, "hidden_size": 5120, "num_attention_heads": 2, "num_hidden_layers": 4}
        | {"num_key_value_heads": 1},
        {"rope_parameters": _rope(1e9), "rms_norm_eps": 1e-5, "sliding_window": None}
        | {"max_position_embeddings": 8192},
    ),
    "llama": Case(
        "Llama",
        "llama",
        {**SIZES, "hidden_size": 256, "num_attention_heads": 4},
        {"rope_parameters": _rope(5e5), "rms_norm_eps": 1e-5, "max_position_embeddings": 8192},
    ),
}


class Bench:
    """One host's LLMs: as CLIPs of its loaders, of our node, and of our own loader."""

    def __init__(self, host, pack) -> None:
        from comfy import model_management

        model_management.unload_all_models()
        pack.module("lidit_core.text.cache").MEMORY.clear()
        self.host, self.pack = host, pack
        self.error = pack.module("lidit_core.errors").LiDiTError
        self.qwen = "qwen3" if self.has("qwen3") else "qwen2.5"

    def has(self, name: str) -> bool:
        """Whether this release of the host runs LLMs of the kind."""
        from comfy.text_encoders import llama

        return hasattr(llama, CLASSES.get(name, "Llama2"))

    def saved(self, name: str) -> tuple[Path, dict[str, torch.Tensor], Any]:
        """An LLM of the kind in the host's models/llm, its weights, and its tokenizer."""
        if not self.has(name):
            pytest.skip(f"this host does not run {name}")
        folder = self.host.base / "models" / "llm" / "hosted" / name
        tokenizer = tokenizer_for(self.pack, name)
        if not folder.is_dir():
            save_case(folder, name, tokenizer)
        return folder, weights_of(folder), tokenizer

    def theirs(self, name: str, change=dict):
        """The CLIP of the host's, its weights changed or not."""
        _, weights, tokenizer = self.saved(name)
        return host_clip(name, change(weights), tokenizer)

    def read(self, clip, **settings):
        """The CLIP of our node."""
        return self.pack.run("LiDiTLLMFromCLIP", clip=clip, **{**SETTINGS, **settings})[0]

    def ours(self, name: str, **settings):
        """The same LLM by our own loader, in float32."""
        settings = {"llm": f"hosted/{name}", **DEFAULTS, **settings}
        return self.pack.run("LiDiTLLMLoader", **settings)[0]


def tokenizer_for(pack, name: str):
    """A small tokenizer of this kind of LLM, with the chat template that our node gives it."""
    kinds = pack.module("host.llm.host_kinds")
    if name not in EMBEDDED:
        tokenizer = chat_tokenizer()
        tokenizer.chat_template = {"qwen3": kinds.QWEN3, "qwen2.5": kinds.QWEN25}.get(
            name, kinds.LLAMA3
        )
        return tokenizer
    own, chat = (
        (host_spiece(), kinds.GEMMA3) if name == "gemma3" else (host_tekken(), kinds.MISTRAL3)
    )
    part = SimpleNamespace(tokenizer=own, tekken_data=tekken() if name == "mistral" else None)
    read = pack.module("host.llm.host_tokenizer").readable_tokenizer
    return read(SimpleNamespace(llm=part), "llm", chat)


def host_spiece():
    from comfy.text_encoders.spiece_tokenizer import SPieceTokenizer

    return SPieceTokenizer(spiece(), add_bos=True, add_eos=False)


def host_tekken():
    from comfy.text_encoders.bpe_tokenizer import from_tekken_json

    return from_tekken_json(tekken().numpy().tobytes())


def save_case(folder: Path, name: str, tokenizer) -> Path:
    """A random LLM of this kind as a model folder, its weights such as bfloat16 holds."""
    case = CASES[name]
    spread = {"initializer_range": case.sizes["hidden_size"] ** -0.5}  # as wide LLMs have
    save_llm(folder, case.family, tokenizer, **case.sizes, **case.theirs, **spread)
    file = folder / "model.safetensors"
    save_file({k: w.bfloat16().float() for k, w in load_file(file).items()}, file)
    return folder


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """What a single file of this LLM holds, in bfloat16."""
    return {
        key: weight.bfloat16()
        for key, weight in load_file(folder / "model.safetensors").items()
        if key != "lm_head.weight"
    }


def in_fp8(weights: dict[str, torch.Tensor], how: str) -> tuple[dict, dict]:
    """The same with linear layers in 8 bits, and what those are as numbers again.

    Args:
        how: "plain", "old" (scale_weight and a marker), "new" (weight_scale and comfy_quant), or
            "lost" (scaled, without a scale).
    """
    stored, meant = dict(weights), dict(weights)
    for key, weight in weights.items():
        if not key.endswith("_proj.weight"):
            continue
        layer = key.removesuffix(".weight")
        scale = torch.tensor(1.0) if how == "plain" else weight.float().abs().max() / 448
        stored[key] = (weight.float() / scale).to(FP8)
        meant[key] = stored[key].float() * scale
        if how == "old":
            stored[f"{layer}.scale_weight"] = scale
        if how == "new":
            stored[f"{layer}.weight_scale"] = scale
            told = json.dumps({"format": "float8_e4m3fn"}).encode()
            stored[f"{layer}.comfy_quant"] = torch.tensor(list(told), dtype=torch.uint8)
    if how == "old":
        stored["scaled_fp8"] = torch.tensor([], dtype=FP8)
    return stored, meant


def write_meant(folder: Path, meant: dict[str, torch.Tensor]) -> None:
    """Write the numbers that the 8-bit weights mean into a model folder, in float32."""
    save_file({k: w.float().contiguous() for k, w in meant.items()}, folder / "model.safetensors")


def host_clip(name: str, weights: dict[str, torch.Tensor], tokenizer=None):
    """A CLIP by the host's own `load_text_encoder_state_dicts`, its sizes by its model options.

    Args:
        tokenizer: takes the place of the host's, whose tokens a tiny vocabulary does not have.
    """
    import comfy.sd
    import comfy.utils

    case, weights = CASES[name], {**weights, **embedded(name)}
    sizes = {**case.sizes, "vocab_size": weights["model.embed_tokens.weight"].shape[0]}
    if name == "llama":
        return _llama(weights, sizes, tokenizer)
    if hasattr(comfy.utils, "convert_old_quants"):
        weights, _ = comfy.utils.convert_old_quants(weights)
    options = {f"{case.host}_model_config": without_head_width(sizes)}
    clip = comfy.sd.load_text_encoder_state_dicts([weights], model_options=options)
    if tokenizer is not None and name not in EMBEDDED:
        getattr(clip.tokenizer, case.host).tokenizer = tokenizer
    return clip


def embedded(name: str) -> dict[str, torch.Tensor]:
    """The tokenizer in a single file."""
    made = EMBEDDED.get(name)
    return {made[0]: made[1]()} if made else {}


def without_head_width(sizes: dict[str, Any]) -> dict[str, Any]:
    """The host's configurations fix it."""
    return {key: value for key, value in sizes.items() if key != "head_dim"}


def _llama(weights: dict[str, torch.Tensor], sizes: dict[str, Any], tokenizer):
    """Llama by its model class: the host's loaders know the real sizes alone."""
    import comfy.sd
    from comfy import sd1_clip
    from comfy.supported_models_base import ClipTarget
    from comfy.text_encoders.hunyuan_video import LLAMAModel

    class Model(sd1_clip.SD1ClipModel):
        def __init__(self, device="cpu", dtype=None, model_options=None):
            options = model_options or {}
            super().__init__(device, dtype, options, name="llama", clip_model=LLAMAModel)

    class Part:
        pass

    class Tokens:
        def __init__(self, **_):
            self.llama = Part()
            self.llama.tokenizer = tokenizer or chat_tokenizer()

    options = {"llama_model_config": without_head_width(sizes)}
    target = ClipTarget(Tokens, Model)
    clip = comfy.sd.CLIP(target, model_options=options)
    clip.load_sd(weights)
    return clip


@functools.cache
def tekken(tokenizer=None) -> torch.Tensor:
    """A Mistral's tokenizer file with the tokens of a byte-level BPE, as single files embed it."""
    vocabulary = json.loads((tokenizer or chat_tokenizer()).backend_tokenizer.to_str())
    named = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")
    letters = {letter: byte for byte, letter in _byte_letters().items()}
    plain = sorted(vocabulary["model"]["vocab"].items(), key=lambda pair: pair[1])
    tokens = [bytes(letters[c] for c in t) for t, _ in plain if not t.startswith("<|")]
    singles = [bytes([byte]) for byte in range(256)]
    tokens = singles + [token for token in tokens if len(token) > 1]
    data = {
        "config": {
            "pattern": r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s+",
            "default_num_special_tokens": len(named),
            "default_vocab_size": len(named) + len(tokens),
        },
        "vocab": [
            {"rank": rank, "token_bytes": base64.b64encode(token).decode()}
            for rank, token in enumerate(tokens)
        ],
        "special_tokens": [{"rank": rank, "token_str": name} for rank, name in enumerate(named)],
    }
    return torch.tensor(list(json.dumps(data).encode()), dtype=torch.uint8)


def _byte_letters() -> dict[int, str]:
    from comfy.text_encoders.bpe_tokenizer import _bytes_to_unicode

    return _bytes_to_unicode()


@functools.cache
def spiece() -> torch.Tensor:
    """A SentencePiece BPE with byte fallback, as single files of Gemma embed theirs."""
    import sentencepiece

    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=file,
        model_type="bpe",
        vocab_size=500,
        byte_fallback=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        eos_piece="<eos>",
        bos_piece="<bos>",
        user_defined_symbols=["<start_of_turn>", "<end_of_turn>", "\n\n", "▁▁"],
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return torch.tensor(list(file.getvalue()), dtype=torch.uint8)


def states_of(clip, prompt: str) -> torch.Tensor:
    """The states (1, L, C) of a prompt, as any node of the host gets them."""
    with torch.inference_mode():
        return clip.encode_from_tokens(clip.tokenize(prompt))


def check_equal(clip, reference, prompts: list[str] = PROMPTS) -> None:
    """Two CLIPs give the same states of each prompt."""
    for prompt in prompts:
        found, expected = states_of(clip, prompt), states_of(reference, prompt)
        assert found.shape == expected.shape
        assert relative_error(found, expected) < CLOSE, prompt


def layer_of(name: str) -> str:
    """The host takes a Mistral as narrow as this one for the first blocks of the whole."""
    return "2" if name == "mistral" else "-3"


EMBEDDED = {"gemma3": ("spiece_model", spiece), "mistral": ("tekken_model", tekken)}
