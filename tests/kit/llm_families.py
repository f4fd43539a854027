"""Writes docs/llm-families.md: every family of LLMs that transformers has, read here and there.

    PYTHONPATH=.:tests/kit python tests/kit/llm_families.py [FAMILY …]

Each is a tiny random LLM of the real class. Its states after the third to last block are compared
with transformers' own. A family of which no tiny one could be made is named as not tried.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from tiny_llm import SIZES, chat_tokenizer

from lidit_core.errors import LiDiTError
from lidit_core.llm.decoder.build import decoder_blocks
from lidit_core.llm.loading import load_llm
from lidit_core.text.encoder import LLMEncoder
from lidit_core.text.outputs import first_tensor

PAGE = Path(__file__).resolve().parents[2] / "docs" / "llm-families.md"
PROMPT = "a red cat left of two dogs"
LARGEST = 20e6  # numbers of an LLM that is still tiny
MORE = {  # what some families call their sizes, and sizes that only some have
    "n_embd": 32, "n_head": 4, "n_layer": 6, "n_positions": 512, "d_model": 32, "ffn_dim": 48,
    "num_layers": 6, "ffn_hidden_size": 48, "head_dim": 8, "word_embed_proj_dim": 32,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "n_group": 1,
    "topk_group": 1, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8, "v_head_dim": 8, "query_pre_attn_scalar": 8, "first_k_dense_replace": 1,
}  # fmt: skip


def families() -> Iterator[tuple[str, type]]:
    """The kinds of LLMs, and their configurations."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    for kind in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        if not sys.argv[1:] or kind in sys.argv[1:]:
            yield kind, CONFIG_MAPPING[kind]


def tiny(config: type, folder: Path) -> torch.nn.Module | None:
    """A tiny LLM of this kind in a folder; None where none can be made of these sizes."""
    from transformers import AutoModelForCausalLM

    tokenizer = chat_tokenizer()
    try:
        known = {*config().to_dict(), *getattr(config, "attribute_map", {})}
        sizes = {k: v for k, v in {**SIZES, **MORE}.items() if k in known}
        made = config(**sizes, vocab_size=len(tokenizer))
        with torch.device("meta"):
            weights = AutoModelForCausalLM.from_config(made).parameters()
            if sum(weight.numel() for weight in weights) > LARGEST:
                return None
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(made)
        with torch.no_grad():
            model.float().eval()(torch.tensor([[5, 6, 7]]))  # sizes that do not fit each other
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except Exception:
        return None
    return model


def outcome(config: type, folder: Path) -> str:
    """The largest difference of a token's state, or the sentence of a refusal."""
    model = tiny(config, folder)
    if model is None:
        return "not tried"
    try:
        encoder = LLMEncoder(load_llm(folder, -3, torch.float32))
        ours = encoder.encode_rows([PROMPT])[0].hidden
    except LiDiTError as error:
        told = str(error).split(";")[0]
        return "refused: " + told.replace(str(folder), "its folder").replace(folder.name, "it")
    kept: list[torch.Tensor] = []  # by a hook: some list states from the first block's on
    blocks = _blocks(model)
    blocks[len(blocks) - 3].register_forward_hook(lambda m, a, out: kept.append(first_tensor(out)))
    with torch.no_grad():
        model(torch.tensor([encoder.renderer(PROMPT).ids]))
    theirs = kept[0][0]
    error = float(((ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)).max())
    return f"{error:.0e}"


def _blocks(model: torch.nn.Module) -> torch.nn.ModuleList:
    for part in model.modules():
        if hasattr(part, "config"):
            with contextlib.suppress(LiDiTError, AttributeError):
                return decoder_blocks(part)
    raise AssertionError("this LLM has no list of blocks")


def main() -> None:
    from transformers import __version__, logging

    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    found: dict[str, str] = {}
    for kind, config in families():
        with tempfile.TemporaryDirectory() as folder:
            try:
                found[kind] = outcome(config, Path(folder))
            except Exception as error:  # theirs, or a fault of ours that must be seen
                found[kind] = f"FAULT: {type(error).__name__}: {error}"[:200]
        print(kind, found[kind], flush=True)
        if not sys.argv[1:]:
            PAGE.write_text(page(found, __version__), encoding="utf-8")


def page(found: dict[str, str], version: str) -> str:
    read = {k: v for k, v in found.items() if v[0].isdigit()}
    other = {k: v for k, v in found.items() if k not in read and v != "not tried"}
    left = [kind for kind, told in found.items() if told == "not tried"]
    lines = [
        "# Families of LLMs",
        "",
        "A family is the `model_type` in an LLM's `config.json`.",
        "",
        "Written by `python tests/kit/llm_families.py` with transformers "
        + version
        + ". Each is a "
        "tiny random LLM of the real class; the number is the largest relative difference of a "
        "token's state after the third to last block from transformers' own.",
        "",
        "| family | difference |",
        "|---|---|",
        *(f"| {kind} | {told} |" for kind, told in read.items()),
        "",
        "Refused, each in one sentence:" if other else "",
        "",
        *(f"- {kind}: {told.removeprefix('refused: ')}" for kind, told in other.items()),
        "",
        f"Not tried, as no tiny one of these sizes could be made: {', '.join(left)}."
        if left
        else "",
    ]
    return "\n".join(lines).strip() + "\n"


if __name__ == "__main__":
    main()
