"""Where the model loader looks, and what it says. Host's Python: pytest tests/host"""

from __future__ import annotations

import os
import shutil
import time

import pytest
import torch
from model_kit import save_small
from safetensors.torch import save_file


@pytest.fixture(scope="module")
def folder(host):
    """models/diffusion_models with a small LI-DiT in a folder of its own, and other things."""
    folder = host.base / "models" / "diffusion_models"
    (folder / "mine").mkdir(exist_ok=True)
    save_small(folder / "mine" / "small.safetensors")
    save_file({"a.weight": torch.zeros(2, 2)}, folder / "other.safetensors")
    (folder / "cut.safetensors").write_bytes((folder / "mine/small.safetensors").read_bytes()[:999])
    return folder


def load(pack, name: str, weight_dtype: str = "default") -> tuple:
    return pack.run("LiDiTModelLoader", model_name=name, weight_dtype=weight_dtype)


def test_names_are_listed_with_forward_slashes_and_found_with_either(pack, folder):
    names = pack.LiDiTModelLoader.INPUT_TYPES()["required"]["model_name"]
    options = names[1]["options"] if isinstance(names[0], str) else names[0]
    assert "mine/small.safetensors" in options
    for name in ("mine/small.safetensors", "mine\\small.safetensors"):
        assert load(pack, name)[0].model is not None


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "C:\\x.safetensors",
                                  "mine\\..\\..\\x.safetensors"])  # fmt: skip
def test_a_name_that_leads_out_is_refused(pack, folder, name):
    with pytest.raises(Exception, match="leads out of the model folders"):
        load(pack, name)


@pytest.mark.parametrize("name", ["", ".", "mine", "x" * 300])
def test_a_name_of_no_file_is_told(pack, folder, name):
    with pytest.raises(Exception, match=r"no file '.*' in models/diffusion_models"):
        load(pack, name)


def test_an_empty_list_says_what_to_do_and_so_does_running_it(pack, folder):
    nothing = pack.module("host.folders").none_in("diffusion_models")
    with pytest.raises(Exception, match="no model file yet; put a .safetensors file into"):
        load(pack, nothing)


def test_a_file_of_a_shipped_name_is_listed_once(pack, folder):
    models = pack.module("host.lidit.files")
    (shipped, *_) = models.checkpoints()
    assert shipped == "stickers.safetensors"
    mine = folder / shipped
    already = mine.exists()
    mine.touch()
    try:
        assert shipped in models.refiners() and models.checkpoints().count(shipped) == 1
    finally:
        if not already:
            mine.unlink()


def test_what_is_no_lidit_gets_one_sentence(pack, folder):
    with pytest.raises(Exception, match="holds no LI-DiT configuration"):
        load(pack, "other.safetensors")
    with pytest.raises(Exception, match="no whole safetensors file"):
        load(pack, "cut.safetensors")
    with pytest.raises(Exception, match="no file 'gone.safetensors'.*press R"):
        load(pack, "gone.safetensors")


def test_a_checkpoint_without_a_vae_says_so_only_when_it_is_used(pack, folder, host):
    model, vae = load(pack, "mine/small.safetensors")
    assert model is not None
    assert getattr(vae, "patcher", None) is None and not hasattr(vae, "is_dynamic")
    with pytest.raises(Exception, match="paints in the latents of tiny.*load the tiny VAE"):
        host.nodes.VAEDecode().decode(vae, {"samples": torch.zeros(1, 16, 4, 4)})


def test_the_vae_beside_a_checkpoint_is_the_hosts_own_kind(pack, folder, host):
    shipped = pack.module("lidit_core.paths").SHIPPED_WEIGHTS / "stickers-vae.safetensors"
    shutil.copy(shipped, folder / "mine" / "tiny-vae.safetensors")
    try:
        _, vae = load(pack, "mine/small.safetensors")
        picture = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            latent = host.nodes.VAEEncode().encode(vae, picture)[0]
            again = host.nodes.VAEDecode().decode(vae, latent)[0]
        assert latent["samples"].shape == (1, 16, 8, 8) and again.shape == picture.shape
        library = pack.module("lidit_core.checkpoints.lidit").load_vae(shipped)
        with torch.no_grad():
            ours = library.decode(latent["samples"]).permute(0, 2, 3, 1).clamp(0, 1)
        assert (ours - again).abs().max() < 1e-4
    finally:
        (folder / "mine" / "tiny-vae.safetensors").unlink()


def test_an_autoencoder_that_comes_later_loads_the_checkpoint_again(pack, folder):
    asked, loader = ("mine/small.safetensors", "default"), pack.LiDiTModelLoader
    before = loader.fingerprint_inputs(*asked)
    beside = folder / "mine" / "later-vae.safetensors"
    beside.touch()
    assert loader.fingerprint_inputs(*asked) != before
    beside.unlink()
    assert loader.fingerprint_inputs(*asked) == before
    assert loader.fingerprint_inputs(None, "default") == ""


def test_a_changed_file_is_loaded_again(pack, folder):
    before = pack.LiDiTModelLoader.fingerprint_inputs("mine/small.safetensors", "default")
    assert before == pack.LiDiTModelLoader.fingerprint_inputs("mine/small.safetensors", "default")
    later = time.time() + 5
    os.utime(folder / "mine" / "small.safetensors", (later, later))
    assert before != pack.LiDiTModelLoader.fingerprint_inputs("mine/small.safetensors", "default")
