"""What an ablation starts from is kept. Run: pytest tests/stickers/ablation/test_trunk_kept.py"""

from __future__ import annotations

import logging

import pytest
from tiny_lidit import lidit_config, save_lidit_files

from lidit_core.io.hashes import sha256
from lidit_core.shipped import find_vae
from lidit_stickers.ablation import trunk
from lidit_stickers.ablation.trunk import kept


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A folder in the place of the shipped weights'."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    save_lidit_files(folder, lidit_config("one"))
    monkeypatch.setattr(trunk, "SHIPPED_WEIGHTS", folder)
    return folder / "model.safetensors"


def test_an_update_of_what_ships_changes_no_ablation_that_has_begun(shipped, tmp_path, caplog):
    config = lidit_config("one")
    vae, out = find_vae(config.latent, shipped), tmp_path / "trunk"
    before = [sha256(shipped), sha256(vae)]
    began = kept(shipped, vae, out)
    assert began == out / shipped.name and find_vae(config.latent, began).parent == out
    assert not caplog.messages
    for file in (shipped, vae):
        file.write_bytes(file.read_bytes() + b"later")
    with caplog.at_level(logging.WARNING):
        assert kept(shipped, vae, out) == began
    assert [sha256(began), sha256(out / vae.name)] == before
    assert "another than when this ablation began" in caplog.text


def test_a_file_of_ones_own_stays_where_it_is(shipped, tmp_path):
    (tmp_path / "mine").mkdir()
    save_lidit_files(tmp_path / "mine", lidit_config("one"))
    mine = tmp_path / "mine" / "model.safetensors"
    assert kept(mine, None, tmp_path / "trunk") == mine and not (tmp_path / "trunk").exists()
