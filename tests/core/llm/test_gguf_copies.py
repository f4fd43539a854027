"""Copies of GGUF files: which is used, when it is made again, and what it is known by.

Run: pytest tests/core/llm/test_gguf_copies.py
"""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("gguf")
from test_gguf_kinds import states, theirs, write  # noqa: E402
from tiny_llm import relative_error  # noqa: E402

from lidit_core.errors import LiDiTError  # noqa: E402
from lidit_core.llm.gguf import convert as conversion  # noqa: E402
from lidit_core.llm.loading import load_llm  # noqa: E402
from lidit_core.llm.locate import locate  # noqa: E402
from lidit_core.text.prompt_encoder import file_identity  # noqa: E402


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIDIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def make_older(path) -> None:
    """Turn a copy into what the first converter made: another name, and no note."""
    load_llm(path)
    folder = locate(path).folder
    (folder / conversion.NOTE).unlink()
    content = conversion.content_digest([path])
    folder.rename(folder.with_name(conversion.older_copy_name(path.stem, content)))


def test_an_older_copy_is_used_where_it_is_right(tmp_path, cache):
    path = tmp_path / "tiny.gguf"
    write(path, "llama")
    make_older(path)
    assert locate(path).converted
    load_llm(path)
    assert len(list((cache / "llm").iterdir())) == 1


def test_an_older_copy_that_dropped_a_scaling_is_made_again(tmp_path, cache):
    path = tmp_path / "tiny.gguf"
    model = write(path, "llama 3.1")
    make_older(path)
    ours, ids = states(path)
    assert relative_error(ours, theirs(model, ids)) <= 2e-2
    assert len(list((cache / "llm").iterdir())) == 2


def test_by_name_an_older_copy_that_dropped_a_scaling_is_made_again(tmp_path, cache):
    folder = cache / "llm" / "mine"
    folder.mkdir(parents=True)
    model = write(folder / "tiny.gguf", "llama, yarn")
    load_llm("mine")
    (folder / conversion.NOTE).unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rope_scaling": None}))
    ours, ids = states("mine")
    assert relative_error(ours, theirs(model, ids)) <= 2e-2


def test_a_copy_whose_gguf_is_gone_is_used_and_said(tmp_path, cache, caplog):
    path = tmp_path / "tiny.gguf"
    write(path, "llama")
    before, _ = states(path)
    path.unlink()
    assert torch.equal(states(path)[0], before)
    assert "tiny.gguf is gone; its copy in" in caplog.text
    with pytest.raises(LiDiTError, match="does not exist"):
        load_llm(tmp_path / "other.gguf")


def test_identity_is_the_sources(tmp_path, cache):
    """A copy made again, elsewhere or at another time, has the same states in the caches."""
    path = tmp_path / "tiny.gguf"
    write(path, "llama")
    load_llm(path)
    before, folder = file_identity(locate(path)), locate(path).folder
    conversion.discard(folder)
    load_llm(path)
    assert file_identity(locate(path)) == before
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert file_identity(locate(path)) != before
    write(path, "llama 3.1")
    load_llm(path)
    assert file_identity(locate(path)) != before
