"""Encoded prompts as files. Run: pytest tests/core/io/test_conditioning.py"""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from lidit_core.errors import LiDiTError
from lidit_core.io.conditioning import (
    EncodedPrompt,
    EncodedPrompts,
    NotStorable,
    read_encoded,
    write_encoded,
)
from lidit_core.io.tensors import read_safetensors


def values() -> dict:
    pooled = torch.randn(1, 8)
    return {
        "pooled_output": pooled,
        "mask": torch.ones(1, 5, dtype=torch.int64),
        "guidance": 3.5,
        "area": (8, 8, 0, 0),
        "nothing": None,
        "flag": True,
        "states": {"0": torch.randn(1, 5, 4).to(torch.bfloat16), "name": "alpha", "deep": [1, "x"]},
        "again": pooled,
    }


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return set(a) == set(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b and type(a) is type(b)


def test_what_is_written_is_read_to_the_bit(tmp_path):
    sequence = torch.randn(1, 5, 4)
    entries = [(sequence, values()), (sequence[:, :3], {}), (torch.randn(2, 3, 5, 4), {})]
    prompts = [EncodedPrompt(entries, "a cat 🐈"), EncodedPrompt(entries[:1])]
    write_encoded(tmp_path / "a.safetensors", EncodedPrompts(prompts, {"encoder": "tiny"}))
    found = read_encoded(tmp_path / "a.safetensors")
    assert [prompt.text for prompt in found.prompts] == ["a cat 🐈", ""]
    assert found.about == {"encoder": "tiny"}
    for ours, theirs in zip(found.prompts, prompts, strict=True):
        for (a, x), (b, y) in zip(ours.entries, theirs.entries, strict=True):
            assert same(a, b) and same(x, y)


def test_a_tensor_that_is_there_twice_is_written_once(tmp_path):
    sequence = torch.randn(1, 5, 400)
    entry = (sequence, {"states": {"0": sequence}, "part": sequence[:, 1:]})
    write_encoded(tmp_path / "a.safetensors", EncodedPrompts([EncodedPrompt([entry])]))
    assert sorted(t.shape[1] for t in load_file(tmp_path / "a.safetensors").values()) == [4, 5]
    ((found, values),) = read_encoded(tmp_path / "a.safetensors").prompts[0].entries
    assert torch.equal(values["states"]["0"], sequence) and torch.equal(found, sequence)


@pytest.mark.parametrize("value", [object(), {1: 2}, {"a": {"b": torch.nn.Linear(1, 1)}}, b"x"])
def test_what_no_file_holds_is_named_and_nothing_is_written(tmp_path, value):
    entry = (torch.zeros(1, 1, 1), {"control": value})
    with pytest.raises(NotStorable, match="control.* is .*, which no file holds"):
        write_encoded(tmp_path / "a.safetensors", EncodedPrompts([EncodedPrompt([entry])]))
    assert list(tmp_path.iterdir()) == []


def test_a_dict_that_holds_itself_is_refused(tmp_path):
    endless: dict = {}
    endless["self"] = endless
    with pytest.raises(NotStorable):
        write_encoded(
            tmp_path / "a.safetensors",
            EncodedPrompts([EncodedPrompt([(torch.zeros(1, 1, 1), endless)])]),
        )


def damaged(metadata: dict) -> list[dict]:
    entry = json.loads(metadata["entries"])
    return [
        {**metadata, "entries": "[[{]]"},
        {**metadata, "entries": json.dumps([[{"sequence": "other", "values": {}}]])},
        {**metadata, "entries": json.dumps([[{"sequence": "0.0", "values": [1]}]])},
        {**metadata, "entries": json.dumps([[{"sequence": "flat", "values": {}}]])},
        {**metadata, "entries": json.dumps([[{"sequence": "0.0"}]])},
        {**metadata, "entries": json.dumps(entry * 2)},
        {**metadata, "entries": "[" * 9999},
        {**metadata, "prompts": "[3]"},
        {**metadata, "about": "7"},
        {key: value for key, value in metadata.items() if key != "prompts"},
        {**metadata, "version": "2"},
        {**metadata, "format": "pt"},
    ]


def test_damaged_files_are_told_in_a_sentence(tmp_path):
    path = tmp_path / "a.safetensors"
    write_encoded(path, EncodedPrompts([EncodedPrompt([(torch.zeros(1, 2, 3), values())])]))
    tensors, metadata = read_safetensors(path)
    for changed in damaged(metadata):
        save_file({**tensors, "flat": torch.zeros(3)}, path, changed)
        with pytest.raises(LiDiTError, match="is damaged|holds no encoded|is of version"):
            read_encoded(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(LiDiTError, match="no whole safetensors file"):
        read_encoded(path)


def test_a_file_that_encode_wrote_at_first_is_read(tmp_path):
    from lidit_core.model.prompt_text import read_encoded_prompts, stored_branch

    old = {
        "alpha.hidden": torch.randn(5, 4),
        "alpha.roles": torch.tensor([1, 1, 2, 2, 2], dtype=torch.int32),
        "beta.hidden": torch.randn(3, 6),
        "beta.roles": torch.tensor([1, 2, 2], dtype=torch.int32),
    }
    save_file(old, tmp_path / "old.safetensors", {"prompt": "a cat 🐈"})
    (prompt,) = read_encoded_prompts(tmp_path / "old.safetensors").prompts
    assert prompt.text == "a cat 🐈"
    ((hidden, values),) = prompt.entries
    assert torch.equal(hidden[0], old["alpha.hidden"])
    for number, name in enumerate(("alpha", "beta")):
        branch = stored_branch(values, str(number))
        assert branch.llm == name and branch.branch is None
        assert torch.equal(branch.states.hidden[0], old[f"{name}.hidden"])
        assert torch.equal(branch.states.roles[0], old[f"{name}.roles"])
    del old["beta.roles"]
    save_file(old, tmp_path / "odd.safetensors")
    with pytest.raises(LiDiTError, match="holds no encoded prompts"):
        read_encoded_prompts(tmp_path / "odd.safetensors")
