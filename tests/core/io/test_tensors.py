"""Safetensors files are the same bytes for the same content. Run: pytest tests/core/io"""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from lidit_core.io.tensors import read_safetensors, write_safetensors

ODD = 'a "quoted" \\ word\n\t\x01\x7f é 猫 🍎 \u2028 </x>'


@pytest.mark.parametrize("value", ["plain", ODD])
def test_the_same_content_gives_the_same_bytes(tmp_path, value):
    tensors = {name: torch.randn(3, 2) for name in "cab"}
    metadata = {f"{name} {value}": f"{value}{n}" for n, name in enumerate("zyxwvutsrq")}
    path, seen = tmp_path / "a.safetensors", set()
    for _ in range(12):
        write_safetensors(path, tensors, metadata)
        seen.add(path.read_bytes())
    assert len(seen) == 1
    found, told = read_safetensors(path)
    assert told == metadata and set(found) == set(tensors)
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert all(torch.equal(t, tensors[name]) for name, t in load_file(path).items())


def test_a_file_without_metadata_is_whole(tmp_path):
    write_safetensors(tmp_path / "b.safetensors", {"x": torch.zeros(2)}, {})
    found, told = read_safetensors(tmp_path / "b.safetensors")
    assert told == {} and torch.equal(found["x"], torch.zeros(2))
