"""Files that replace others. Run: pytest tests/core/io/test_atomic.py"""

from __future__ import annotations

import pytest
import torch

from lidit_core.io.atomic import replacing
from lidit_core.io.tensors import write_safetensors


def test_a_file_appears_whole_in_a_folder_that_is_made(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with replacing(path) as beside:
        beside.write_text("whole")
        assert not path.exists() and beside.parent == path.parent
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as beside:
        beside.write_text("hal")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_two_writers_do_not_meet(tmp_path):
    path = tmp_path / "file.txt"
    with replacing(path) as one, replacing(path) as other:
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"  # the outer block ended last


def test_others_may_read_what_is_written(tmp_path):
    plain, tensors = tmp_path / "plain", tmp_path / "tensors"
    plain.touch()
    write_safetensors(tensors, {"a": torch.zeros(1)}, {})
    assert tensors.stat().st_mode == plain.stat().st_mode
