"""What is offered as an LLM, by headers alone. Run: pytest tests/core/llm/test_listing.py"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_llm import save_llm

from lidit_core.errors import LiDiTError
from lidit_core.llm.listing import file_serves, gguf_serves
from lidit_core.llm.loading import load_llm
from lidit_core.llm.locate import installed_llms
from lidit_core.llm.single.file import EMBEDDED
from lidit_core.paths import cache_root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_llm(tmp_path_factory.mktemp("llm") / "tiny", "Qwen3", head_dim=8)


def test_a_file_is_offered_once_it_can_be_loaded(folder, tmp_path):
    file = shutil.copy2(folder / "model.safetensors", tmp_path / "qwen.safetensors")
    assert not file_serves(file)  # neither a released one nor described
    (tmp_path / "qwen").mkdir()
    shutil.copy2(folder / "config.json", tmp_path / "qwen")
    assert not file_serves(file)  # and it cannot read text
    shutil.copy2(folder / "tokenizer.json", tmp_path / "qwen")
    assert file_serves(file)


def test_a_released_llm_with_its_tokenizer_is_offered(tmp_path):
    """By shapes alone: the tensors are of a file with holes."""
    sizes = {"embed_tokens": (49152, 576), "layers.0.self_attn.q_proj": (576, 576),
             "layers.0.self_attn.k_proj": (192, 576), "layers.0.mlp.gate_proj": (1536, 576),
             **{f"layers.{i}.mlp.up_proj": (1, 1) for i in range(30)}}  # fmt: skip
    state = {f"model.{k}.weight": torch.zeros(v, dtype=torch.uint8) for k, v in sizes.items()}
    save_file(state, tmp_path / "smollm2.safetensors")
    assert not file_serves(tmp_path / "smollm2.safetensors")
    state[EMBEDDED] = torch.zeros(4, dtype=torch.uint8)
    for name, serves in (("smollm2-135m", True), ("smollm-135m", False)):
        save_file(state, tmp_path / f"{name}.safetensors")
        assert file_serves(tmp_path / f"{name}.safetensors") == serves


@pytest.mark.parametrize("data", [b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0[]", b"\x10" + b"\0" * 40])
def test_what_is_no_whole_file_is_not_offered(tmp_path, data):
    for name in ("x.safetensors", "x.gguf"):
        (tmp_path / name).write_bytes(data)
    assert not file_serves(tmp_path / "x.safetensors") and not gguf_serves(tmp_path / "x.gguf")
    assert not file_serves(tmp_path / "none.safetensors")
    assert not gguf_serves(tmp_path / "none.gguf")


@pytest.mark.parametrize(
    "part", ["embed_tokens", "layers.0.self_attn.q_proj", "layers.0.mlp.gate_proj"]
)
@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4)])
def test_a_tensor_that_is_no_matrix_is_no_llm(folder, tmp_path, part, shape):
    """The whole list would be lost to one odd file."""
    state = load_file(folder / "model.safetensors")
    file = tmp_path / "odd.safetensors"
    save_file({**state, f"model.{part}.weight": torch.zeros(shape)}, file)
    assert not file_serves(file)
    with pytest.raises(LiDiTError, match="what LLM the file .*odd.safetensors holds is not known"):
        load_llm(file)


def test_a_text_encoder_of_another_kind_is_not_offered(tmp_path):
    save_file({"encoder.block.0.layer.0.SelfAttention.k.weight": torch.ones(4, 4)},
              tmp_path / "t5xxl.safetensors")  # fmt: skip
    assert not file_serves(tmp_path / "t5xxl.safetensors")


@pytest.mark.parametrize(
    "name, architecture, offered",
    [
        ("tiny.gguf", "llama", True),
        ("tiny-00001-of-00002.gguf", "qwen3", True),
        ("tiny-00002-of-00002.gguf", "qwen3", False),
        ("t5.gguf", "t5encoder", False),
        ("mmproj-tiny.gguf", "clip", False),
        ("wan.gguf", "wan", False),
    ],
)
def test_gguf_files_by_their_architecture(tmp_path, name, architecture, offered):
    pytest.importorskip("gguf")
    from tiny_gguf import write_tiny_gguf

    write_tiny_gguf(tmp_path / name, architecture, {"x": np.ones((2, 2), np.float32)}, {})
    assert gguf_serves(tmp_path / name) == offered


def test_an_unchanged_file_is_not_read_again(folder, tmp_path, monkeypatch):
    from lidit_core.llm import listing

    file = shutil.copytree(folder, tmp_path / "copy") / "model.safetensors"
    assert file_serves(file)
    monkeypatch.setattr(listing.json, "loads", lambda text: pytest.fail("read again"))
    assert file_serves(file)
    monkeypatch.undo()
    save_file({"a": load_file(file)["model.norm.weight"]}, file)
    assert not file_serves(file)


def test_a_user_without_a_home_has_a_cache(monkeypatch):
    """As in a container that runs under a number which nobody has a name for."""
    monkeypatch.delenv("LIDIT_CACHE", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # what it does there
    assert cache_root() == Path(tempfile.gettempdir()) / ".cache" / "lidit"
    assert isinstance(installed_llms(), list)
