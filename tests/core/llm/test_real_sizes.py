"""LLMs of real sizes: memory, disk and time. Run: python3 run.py prove memory

It takes 17 GB of disk and, on one core, about fifteen minutes.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from functools import partial
from pathlib import Path

import processes
import pytest
import torch
from tiny_llm import chat_tokenizer

from lidit_core.llm.demo_llms import SMOLLM2
from lidit_core.llm.gguf import convert as conversion
from lidit_core.llm.gguf import tensors as unpacking
from lidit_core.llm.loading import load_llm
from lidit_core.llm.locate import locate
from lidit_core.text.encoder import LLMEncoder

pytestmark = pytest.mark.skipif(
    not os.environ.get("LIDIT_REAL_SIZES"), reason="minutes and GB: python3 run.py prove memory"
)
ROOM = 17e9  # bytes of disk
QWEN3_8B = {
    "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "rope_theta": 1e6,
    "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
}  # fmt: skip
QWEN3_1_7B = {
    **QWEN3_8B, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28,
    "num_attention_heads": 16, "tie_word_embeddings": True,
}  # fmt: skip
SHARD = 1 << 29  # bytes that are gathered before they are written
IMPORTS = """
import torch, transformers.models.auto.modeling_auto
import transformers.models.llama.modeling_llama
from lidit_core.llm import loading
from lidit_core.llm.gguf import convert, write
"""
watched = partial(processes.watched, imports=IMPORTS)


def states(folder) -> list[torch.Tensor]:
    rows = LLMEncoder(load_llm(folder, "all", torch.float32)).encode_rows(["a red cat", "two dogs"])
    return [row.hidden.unflatten(-1, (-1, row.hidden.shape[-1] // 31)) for row in rows]


def test_a_converted_llm_is_lean_and_right(tmp_path, monkeypatch):
    parts = locate(SMOLLM2.name).parts
    if not parts:
        pytest.skip("SmolLM2's GGUF is not here: lidit fetch smollm2")
    gguf = tmp_path / "smol.gguf"
    with gguf.open("wb") as whole:
        for part in parts:
            whole.write(part.read_bytes())
    cache = tmp_path / "lean"
    body = "loading.model_folder(loading.locate(sys.argv[1]))"
    held = watched(body, str(gguf), cache=cache)
    (folder,) = (cache / "llm").iterdir()
    in_float16 = 2 * sum(info.count for info in conversion.joined_header([gguf]).tensors.values())
    on_disk = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    print(f"disk {on_disk / in_float16:.4f}, memory {_above(held) / in_float16:.2f} of float16")
    assert on_disk <= 1.05 * in_float16
    assert _above(held) <= 2 * in_float16

    monkeypatch.setattr(unpacking, "DTYPES", (torch.float32,))
    conversion.convert([gguf], tmp_path / "exact")
    for ours, exact in zip(states(folder), states(tmp_path / "exact"), strict=True):
        error = (ours - exact).norm(dim=-1) / exact.norm(dim=-1)
        print(f"largest relative difference of a token's state: {error.max():.1e}")
        assert error.max() <= 2e-3


def _above(held: dict) -> int:
    """Bytes beyond what PyTorch and transformers take once imported."""
    return held["RssAnon"] - held["before"]


def write_qwen3(folder: Path, sizes: dict) -> None:
    """Random weights in bfloat16, shard by shard; numbers are taken from one pool."""
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("qwen3", **sizes)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shapes = {name: weight.shape for name, weight in model.named_parameters()}
    largest = max(map(math.prod, shapes.values()))
    pool = torch.empty(largest + 9973 * len(shapes), dtype=torch.bfloat16).normal_(0, 0.02)
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    chat_tokenizer().save_pretrained(folder)
    places, shard, size, count = {}, {}, 0, 0

    def write() -> None:
        nonlocal shard, size, count
        file = f"model-{count:05}.safetensors"
        save_file(shard, folder / file, {"format": "pt"})
        places.update(dict.fromkeys(shard, file))
        shard, size, count = {}, 0, count + 1

    for number, (name, shape) in enumerate(shapes.items()):
        start = 9973 * number
        values = pool[start : start + shape.numel()].view(shape)
        if shard and size + values.nbytes > SHARD:
            write()
        shard[name] = torch.ones_like(values) if name.endswith("norm.weight") else values.clone()
        size += values.nbytes
    if shard:
        write()
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_an_llm_of_8_billion_encodes_one_block_at_a_time(tmp_path):
    scratch = Path(os.environ.get("LIDIT_SCRATCH", tmp_path)) / "qwen3-8b"
    if shutil.disk_usage(scratch.parent).free < ROOM:
        pytest.skip(f"{scratch.parent} has less than {ROOM / 1e9:.0f} GB left: set LIDIT_SCRATCH")
    try:
        write_qwen3(scratch, QWEN3_8B)
        body = (
            "from lidit_core.text.encoder import LLMEncoder\n"
            "llm = loading.load_llm(sys.argv[1], -3, torch.float32, one_block=True)\n"
            "assert llm.blocks == 34 and llm.fingerprint, llm\n"
            "began = time.monotonic()\n"
            "(row,) = LLMEncoder(llm, reuse=False).encode_rows(['two dogs left of a red cat'])\n"
            "assert row.hidden.shape[1] == 4096 and bool(row.hidden.isfinite().all())\n"
            "print(f'{time.monotonic() - began:.0f} seconds', file=sys.stderr)"
        )
        held = watched(body, str(scratch), cache=tmp_path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    assert held["RssAnon"] < 4e9
    assert held["VmRSS"] < 12e9


PROMPTS = ["two dogs left of a red cat", "three apples on a yellow background"]
OURS = f"""
from lidit_core.text.encoder import LLMEncoder
began = time.monotonic()
llm = loading.load_llm(sys.argv[1], -3, torch.float32, one_block=True)
encoder = LLMEncoder(llm, reuse=False)
told["load"] = time.monotonic() - began
texts = [encoder.renderer(prompt).ids for prompt in {PROMPTS}]
encoder.encode_rows({PROMPTS[:1]})
began = time.monotonic()
(row,) = encoder.encode_rows({PROMPTS[1:]})
told["prompt"] = time.monotonic() - began
torch.save([texts, row.hidden], sys.argv[2])
"""
THEIRS = """
from transformers import AutoModel
began = time.monotonic()
model = AutoModel.from_pretrained(sys.argv[1]).float().eval()
told["load"] = time.monotonic() - began
texts, ours = torch.load(sys.argv[2])
with torch.no_grad():
    for ids in texts:
        began = time.monotonic()
        states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-3][0]
        told["prompt"] = time.monotonic() - began
told["error"] = float(((ours - states).norm(dim=-1) / states.norm(dim=-1)).max())
"""


def test_what_one_block_at_a_time_costs_where_all_would_fit(tmp_path):
    """Time and memory beside plain transformers, with random weights of Qwen3-1.7B's shape."""
    folder, kept = tmp_path / "qwen3-1.7b", tmp_path / "states.pt"
    try:
        write_qwen3(folder, QWEN3_1_7B)
        ours, theirs = (
            watched(body, str(folder), str(kept), cache=tmp_path) for body in (OURS, THEIRS)
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for what in ("load", "prompt"):
        ratio = ours[what] / theirs[what]
        print(f"{what}: {ours[what]:.1f} s, transformers {theirs[what]:.1f} s: {ratio:.2f} times")
    print(f"memory: {_above(ours) / _above(theirs):.2f} of transformers'; {theirs['error']:.0e}")
    assert theirs["error"] <= 1e-4
    assert _above(ours) < 0.25 * _above(theirs)
