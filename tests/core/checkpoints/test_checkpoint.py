"""Checkpoints. Run: pytest tests/core/checkpoints/test_checkpoint.py"""

from __future__ import annotations

import json
import time

import pytest
import torch
from tiny_lidit import lidit_config, randomise, save_lidit_files

from lidit_core.checkpoints.lidit import (
    CONFIG_KEY,
    CONFIG_TENSOR,
    config_tensor,
    load_lidit,
    load_vae,
    read_config,
    save_lidit,
)
from lidit_core.errors import LiDiTError
from lidit_core.io.tensors import HOST_PREFIX, read_safetensors, write_safetensors
from lidit_core.model.dit import LiDiT


@pytest.fixture
def saved(tmp_path):
    config = lidit_config("a", "b")
    return config, save_lidit_files(tmp_path, config)


def test_a_checkpoint_describes_itself(saved):
    config, path = saved
    assert read_config(path) == config
    model = load_lidit(path)
    expected = randomise(LiDiT(config)).state_dict()
    assert model.config == config and not model.training
    assert all(torch.equal(v, expected[k]) for k, v in model.state_dict().items())


def test_stored_in_bfloat16_computed_in_float32(saved, tmp_path):
    config, path = saved
    tensors, metadata = read_safetensors(path)
    small = tmp_path / "small.safetensors"
    write_safetensors(small, {k: v.bfloat16() for k, v in tensors.items()}, metadata)
    assert {p.dtype for p in load_lidit(small).parameters()} == {torch.float32}
    assert small.stat().st_size < 0.6 * path.stat().st_size


@pytest.mark.parametrize("own_metadata", [True, False])
def test_what_a_host_saved_loads_again(saved, tmp_path, own_metadata):
    """A host puts a prefix before every key, and metadata of its own in the place of ours."""
    config, path = saved
    tensors, metadata = read_safetensors(path)
    host = tmp_path / "host.safetensors"
    held = tensors if own_metadata else {**tensors, CONFIG_TENSOR: config_tensor(config)}
    metadata = metadata if own_metadata else {"workflow": "{}"}
    write_safetensors(host, {HOST_PREFIX + k: v for k, v in held.items()}, metadata)
    assert load_lidit(host).state_dict().keys() == tensors.keys()
    assert read_config(host) == config


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda t: t.pop("blocks.0.mlp.0.bias"), "1 missing \\(blocks.0.mlp.0.bias\\)"),
        (lambda t: t.update(extra=torch.zeros(1)), "1 unexpected \\(extra\\)"),
        (
            lambda t: t.update({"pooled_text.bias": torch.zeros(3)}),
            "pooled_text.bias \\(3,\\) instead of \\(32,\\)",
        ),
        (lambda t: [t.pop(k) for k in list(t)[:9]], "9 missing .* and 4 more"),
    ],
)
def test_a_wrong_tensor_is_named(saved, change, words):
    _, path = saved
    tensors, metadata = read_safetensors(path)
    change(tensors)
    write_safetensors(path, tensors, metadata)
    with pytest.raises(LiDiTError, match=words):
        load_lidit(path)


@pytest.mark.parametrize(
    "field, value, told",
    [
        (("depth",), 10_000_000, "asks for 10000000 of blocks.N, and the file holds 2"),
        (("refiner", "blocks"), 10_000_000, "asks for 10000000 of text_side.linguistic.0.blocks.N"),
        (("refiner", "collaborative_blocks"), 10_000_000, "collaborative.branches.0.N"),
        (("width",), 1 << 62, "patch_embedder.weight .* instead of \\(4611686018427387904,"),
        (("patch",), 4, "patch_embedder.weight"),
        (("llms", 0, "width"), 1 << 40, "text_side.linguistic.0.entry.weight"),
    ],
)
def test_sizes_that_the_tensors_do_not_have_are_refused_in_a_moment(saved, field, value, told):
    """Before a model of that size is built, even of the meta device's."""
    _, path = saved
    tensors, metadata = read_safetensors(path)
    changed = json.loads(metadata[CONFIG_KEY])
    *outer, last = field
    record = changed
    for key in outer:
        record = record[key]
    record[last] = value
    write_safetensors(path, tensors, {CONFIG_KEY: json.dumps(changed)})
    for load in (read_config, load_lidit):
        began = time.monotonic()
        with pytest.raises(LiDiTError, match=told):
            load(path)
        assert time.monotonic() - began < 2


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.5, 0.99])
def test_a_truncated_file_gets_one_sentence(saved, share):
    _, path = saved
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    for load in (load_lidit, read_config):
        with pytest.raises(LiDiTError, match="no whole safetensors file"):
            load(path)


def test_a_file_of_another_kind_gets_one_sentence(saved, tmp_path):
    _, path = saved
    vae = next(tmp_path.glob("*-vae.safetensors"))
    for load in (load_lidit, read_config):
        with pytest.raises(LiDiTError, match="holds no LI-DiT configuration"):
            load(vae)
    with pytest.raises(LiDiTError, match="does not fit"):
        load_vae(path)
    for load in (load_lidit, read_config, load_vae):
        with pytest.raises(LiDiTError, match="no file"):
            load(tmp_path / "absent.safetensors")


def test_a_write_that_the_disk_refuses_is_one_sentence(tmp_path):
    path = tmp_path / f"{'x' * 230}.safetensors"  # with what is put before and after it too long
    with pytest.raises(LiDiTError, match="x.safetensors cannot be written .*somewhere else"):
        write_safetensors(path, {"x": torch.zeros(2)}, {})
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(LiDiTError, match="cannot be written"):
        write_safetensors(tmp_path / "taken" / "y.safetensors", {"x": torch.zeros(2)}, {})


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_written(saved, number):
    config, path = saved
    before, weights = path.read_bytes(), load_lidit(path).bfloat16().state_dict()
    weights["pooled_text.bias"][3] = number
    with pytest.raises(LiDiTError, match="is not written, for 1 of .* pooled_text.bias first"):
        save_lidit(weights, config, path)
    assert path.read_bytes() == before


def test_a_failed_write_keeps_the_old_file(saved):
    _, path = saved
    before = path.read_bytes()
    with pytest.raises(Exception, match="(?i)metadata|str"):
        write_safetensors(path, {"x": torch.zeros(2)}, {CONFIG_KEY: 3})
    assert path.read_bytes() == before
