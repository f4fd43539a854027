"""Files are known by what they hold. Run: pytest tests/core/io/test_hashes.py"""

from __future__ import annotations

import hashlib

import pytest

from lidit_core.io.hashes import sampled_sha256, sha256


def test_a_files_hash_is_that_of_its_bytes(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"weights" * 300_000)
    assert sha256(file) == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("size", [0, 3, 5_000, 8_000_000])
def test_samples_tell_one_files_weights_from_anothers(tmp_path, size):
    one, copy = tmp_path / "one", tmp_path / "copy"
    one.write_bytes(bytes(size))
    copy.write_bytes(bytes(size))
    assert sampled_sha256(one) == sampled_sha256(copy)
    longer = tmp_path / "longer"
    longer.write_bytes(bytes(size + 1))
    assert sampled_sha256(longer) != sampled_sha256(one)


def test_samples_see_a_tensor_of_some_kilobytes_wherever_it_stands(tmp_path):
    size, changed = 8_000_000, 12_000
    plain, other = tmp_path / "plain", tmp_path / "other"
    plain.write_bytes(bytes(size))
    seen = sampled_sha256(plain)
    for start in range(0, size - changed, 2_500_001):
        other.write_bytes(bytes(start) + b"\1" * changed + bytes(size - start - changed))
        assert sampled_sha256(other) != seen
