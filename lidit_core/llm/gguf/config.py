"""A GGUF's metadata as a config.json: all that changes numbers is applied, or the file refused."""

from __future__ import annotations

import math

from ...errors import check, shown
from .architectures import ARCHITECTURES, HEAD, SIZES, WITHOUT_EFFECT, Architecture
from .header import Header, TensorInfo

NEEDED = ("embedding_length", "block_count", "feed_forward_length", "attention.head_count",
          "attention.layer_norm_rms_epsilon")  # fmt: skip
HARMLESS = {  # by key, the value that changes nothing
    "rope.scaling.type": "none", "attention.causal": True, "use_parallel_residual": False,
    "expert_count": 0, "expert_used_count": 0, "rope.scaling.attn_factor": 1.0,
    "rope.scaling.factor": 1.0, "attention.sliding_window": 0,
}  # fmt: skip
SCALING = {
    "rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length",
    "rope.scaling.attn_factor", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow",
}  # fmt: skip
FACTORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
LOCAL_BASE = "rope.freq_base_swa"
REMEDY = "get the LLM as safetensors, or another GGUF of it"


def config_of(header: Header, factors: dict[str, list[float]], name: str) -> dict:
    """The config.json of a GGUF whose architecture is in `ARCHITECTURES`.

    Args:
        factors: the values of the file's tensors that are named in `FACTORS`.
        name: how sentences call the file.

    Raises:
        LiDiTError: the metadata are incomplete, or say something that is not applied.
    """
    kind, own = ARCHITECTURES[header.architecture], _single(header.own(), name)
    missing = [key for key in NEEDED if not own.get(key)]
    check(not missing, f"{name} does not say its {', '.join(missing)}; {REMEDY}")
    check_sizes(own, header, name)
    fields = {"model_type": kind.model_type, "torch_dtype": "float32", **kind.fields}
    fields |= {field: own[key] for key, field in {**SIZES, **kind.keys}.items() if key in own}
    fields.setdefault("num_key_value_heads", fields["num_attention_heads"])
    fields.setdefault("rope_theta", 10000.0)  # as llama.cpp
    fields |= _tensor_fields(header.tensors, name) | _token_fields(header)
    fields |= _head_fields(own, kind, fields, name)
    fields |= _rope_scaling(own, kind, factors, fields, name)
    fields |= _of_its_kind(kind.model_type, own, fields)
    _check_applied(own, kind, name)
    return fields


def _single(own: dict, name: str) -> dict:
    """The metadata with a list that has one value for all blocks as that value."""
    found = {}
    for key, value in own.items():
        if isinstance(value, list) and key in SIZES and value:
            same = all(entry == value[0] for entry in value)
            check(same, f"{name} has a {key} that differs from block to block; {REMEDY}")
            value = value[0]
        found[key] = value
    return found


def check_sizes(own: dict, header: Header, name: str) -> None:
    """Compare the sizes with the tensors before anything is built of them.

    Args:
        own: the metadata of the file's architecture.
        name: how sentences call the file.
    """
    numbers = {n.split(".")[1] for n in header.tensors if n.startswith("blk.")}
    check(
        own.get("block_count") == len(numbers),
        f"{name} speaks of {shown(own.get('block_count'))} blocks and holds {len(numbers)}; "
        "expected a whole file, so get it again",
    )
    largest = max((side for t in header.tensors.values() for side in t.shape), default=0)
    keys = ("embedding_length", "feed_forward_length", "attention.head_count",
            "attention.head_count_kv", *HEAD)  # fmt: skip
    for key in keys:
        value = own.get(key)
        several = value if isinstance(value, list) else [value]  # one a block
        check(
            value is None or all(isinstance(v, int) and 0 <= v <= largest for v in several),
            f"{name} has a {key} of {shown(value)} and the largest side of its tensors is "
            f"{largest}; expected metadata and tensors of one LLM, so get it again",
        )


def _tensor_fields(tensors: dict[str, TensorInfo], name: str) -> dict:
    """What the presence and the shapes of tensors say."""
    embedding = tensors.get("token_embd.weight")
    check(
        embedding is not None and len(embedding.shape) == 2,
        f"{name} has no token_embd.weight; expected a whole LLM, so get it again",
    )
    assert embedding is not None
    return {
        "vocab_size": embedding.shape[0],
        "tie_word_embeddings": "output.weight" not in tensors,
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in tensors,
    }


def _token_fields(header: Header) -> dict:
    """The special tokens, or that there is none: classes have ids of their own."""
    roles = {"pad": "padding", "bos": "bos", "eos": "eos"}
    said = header.fields
    return {f"{r}_token_id": said.get(f"tokenizer.ggml.{key}_token_id") for r, key in roles.items()}


def _head_fields(own: dict, kind: Architecture, fields: dict, name: str) -> dict:
    plain = fields["hidden_size"] // fields["num_attention_heads"]
    rotated = own.get("rope.dimension_count")
    width = own.get("attention.key_length") or plain
    check(
        own.get("attention.value_length", width) == width,
        f"{name} has values of another width than its keys, which is not read; {REMEDY}",
    )
    if kind.model_type in ("phi3", "glm4"):
        found = {"partial_rotary_factor": (rotated or width) / width}
        return found | ({"head_dim": width} if kind.model_type == "glm4" else {})
    check(
        rotated in (None, width),
        f"{name} rotates {shown(rotated)} of {width} channels of a head, which is not read; "
        f"{REMEDY}",
    )
    return {"head_dim": width}


def _rope_scaling(
    own: dict, kind: Architecture, factors: dict[str, list[float]], fields: dict, name: str
) -> dict:
    """How positions are stretched, in the words of transformers' `rope_scaling`."""
    how, factor = own.get("rope.scaling.type", "none"), own.get("rope.scaling.factor", 1.0)
    trained = own.get("rope.scaling.original_context_length")
    stretched = how in ("linear", "yarn") and factor != 1
    check(
        how in ("none", "linear", "yarn", "longrope") and (kind.scaled_rope or not stretched),
        f"{name} scales its rotary embedding by {shown(how)}, which is not read; {REMEDY}",
    )
    check(
        not (factors and stretched),
        f"{name} scales its rotary embedding twice, by {shown(how)} and by factors; {REMEDY}",
    )
    if factors:
        return _factors(own, kind, factors, fields, trained, name)
    if not stretched:
        return {}
    scaling = {"rope_type": how, "factor": factor}
    if how == "yarn":
        check(
            trained is not None,
            f"{name} does not say its rope.scaling.original_context_length; {REMEDY}",
        )
        scaling["original_max_position_embeddings"] = trained
        for ours, theirs in (("beta_fast", "yarn_beta_fast"), ("beta_slow", "yarn_beta_slow")):
            if f"rope.scaling.{theirs}" in own:
                scaling[ours] = own[f"rope.scaling.{theirs}"]
    return {"rope_scaling": scaling}


def _factors(
    own: dict, kind: Architecture, factors: dict, fields: dict, trained: int | None, name: str
) -> dict:
    """Each frequency is divided by a factor of its own, as Llama 3.1's and Phi 3's are."""
    both = factors.get(FACTORS[0])
    long, short = (factors.get(key, both) for key in FACTORS[1:])
    check(
        long is not None and short is not None and kind.scaled_rope,
        f"{name} has factors of its rotary embedding that are not read; {REMEDY}",
    )
    if kind.model_type == "phi3":
        whole = fields["max_position_embeddings"]
        first = trained or whole
        _check_attention_factor(own, whole / first, first, name)
        scaling = {"type": "longrope", "short_factor": short, "long_factor": long}
        return {"rope_scaling": scaling, "original_max_position_embeddings": first}
    scaling = {
        "rope_type": "longrope", "short_factor": short, "long_factor": long, "factor": 1.0,
        "attention_factor": own.get("rope.scaling.attn_factor", 1.0),
        "original_max_position_embeddings": trained or fields["max_position_embeddings"],
    }  # fmt: skip
    return {"rope_scaling": scaling}


def _check_attention_factor(own: dict, stretch: float, trained: int, name: str) -> None:
    """Phi 3's class computes this factor itself."""
    expected = math.sqrt(1 + math.log(stretch) / math.log(trained)) if stretch > 1 else 1.0
    stated = own.get("rope.scaling.attn_factor", expected)
    check(
        abs(stated - expected) <= 1e-3,
        f"{name} multiplies its attention by {stated:.4f} where its class does by "
        f"{expected:.4f}; {REMEDY}",
    )


def _of_its_kind(model_type: str, own: dict, fields: dict) -> dict:
    """What llama.cpp's code knows of a kind and no file says."""
    blocks, even = (
        fields["num_hidden_layers"],
        fields["hidden_size"] // fields["num_attention_heads"],
    )
    if model_type == "gemma2":
        return {"query_pre_attn_scalar": even if blocks == 46 else fields["head_dim"],
                "layer_types": _windows(blocks, 2)}  # fmt: skip
    if model_type == "gemma3_text":
        return {
            "query_pre_attn_scalar": even if blocks == 62 else fields["head_dim"],
            "rope_local_base_freq": own.get(LOCAL_BASE, 10000.0),
            "sliding_window_pattern": 6,
            "layer_types": _windows(blocks, 6),
        }
    if model_type == "smollm3":  # every fourth block knows no positions
        return {"no_rope_layers": [int((i + 1) % 4 != 0) for i in range(blocks)],
                "no_rope_layer_interval": 4}  # fmt: skip
    return {}


def _windows(blocks: int, every: int) -> list[str]:
    return ["full_attention" if (i + 1) % every == 0 else "sliding_attention"
            for i in range(blocks)]  # fmt: skip


def _check_applied(own: dict, kind: Architecture, name: str) -> None:
    applied = {*SIZES, *kind.keys, *HEAD, *SCALING, *WITHOUT_EFFECT}
    if kind.model_type == "gemma3_text":
        applied |= {LOCAL_BASE}
    left = [
        key
        for key, value in own.items()
        if key not in applied and HARMLESS.get(key, _NOTHING) != value
    ]
    attention = own.get("rope.scaling.attn_factor", 1.0)
    if attention != 1 and own.get("rope.scaling.type") == "yarn":
        left.append("rope.scaling.attn_factor")
    check(
        not left,
        f"{name} says {left[0] if left else ''} = {shown(own[left[0]]) if left else ''}, which "
        f"may change numbers and is not applied for {kind.model_type}; {REMEDY}",
    )


_NOTHING = object()
