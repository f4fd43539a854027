"""VAEs of other models before and after a LI-DiT's sampler. Run: see conftest.py"""

from __future__ import annotations

import shutil

import pytest
import torch
from conftest import SHIPPED
from PIL import Image
from safetensors.torch import load_file, save_file
from workflow_kit import Api, changed, graph, need_llms, node_of

OURS = SHIPPED.with_name("stickers-vae.safetensors")
DECODES = "the VAE of 'taesd3' decodes what this sampler draws"
ENCODED = "this sampler starts from latents of 'taesd3'"
SEEDS = iter(range(3000, 4000))  # so that nothing is cached


@pytest.fixture(scope="module")
def files(server) -> None:
    """Ours under another name in the host's folder, and one that is SD3's by its name."""
    models, weights = server.base / "models", load_file(OURS)
    for folder in ("vae", "vae_approx"):
        (models / folder).mkdir(exist_ok=True)
    shutil.copy(OURS, models / "vae" / "copied.safetensors")
    for part in ("encoder", "decoder"):
        own = {k.split(".", 1)[1]: w for k, w in weights.items() if k.startswith(f"taesd_{part}.")}
        save_file(own, models / "vae_approx" / f"taesd3_{part}.safetensors")
    server.upload("start.png", Image.new("RGB", (256, 256), "red"), server.base)


def loading(api: Api, name: str) -> Api:
    return {**api, name: {"class_type": "VAELoader", "inputs": {"vae_name": name}}}


def decoded_by(name: str) -> Api:
    """The picture of text, decoded with a VAE of the host's loader."""
    api = changed(graph("text_to_image"), "KSampler", steps=2, seed=next(SEEDS))
    return changed(loading(api, name), "VAEDecode", vae=[name, 0])


def begun_from(name: str, denoise: float, decoder: str = "", twice: bool = False) -> Api:
    """A picture drawn over one that such a VAE encoded, in one sampler or two."""
    api = loading(loading(graph("text_to_image"), name), decoder or name)
    sampler, own = node_of(api, "KSampler"), [node_of(api, "LiDiTModelLoader"), 1]
    api = changed(api, "VAEDecode", vae=[decoder, 0] if decoder else own)
    api["image"] = {"class_type": "LoadImage", "inputs": {"image": "start.png"}}
    encoded = {"pixels": ["image", 0], "vae": [name, 0]}
    api["encoded"] = {"class_type": "VAEEncode", "inputs": encoded}
    turned = {"samples": ["encoded", 0], "flip_method": "x-axis: vertically"}
    api["turned"] = {"class_type": "LatentFlip", "inputs": turned}
    given = {"latent_image": ["turned", 0], "denoise": denoise, "steps": 2, "seed": next(SEEDS)}
    api = changed(api, "KSampler", **given)
    if twice:
        api["again"] = {**api[sampler], "inputs": {**api[sampler]["inputs"]}}
        api["again"]["inputs"]["latent_image"] = [sampler, 0]
        api = changed(api, "VAEDecode", samples=["again", 0])
    return api


def ours_decodes(name: str) -> Api:
    """A picture that such a VAE encoded, decoded by the one of our loader, turned between."""
    api = begun_from(name, 0.5)
    return changed(api, "VAEDecode", samples=["turned", 0])


# the graph, and what is told on its sampler
GRAPHS = {
    "its own": (lambda: decoded_by("copied.safetensors"), ()),
    "another decodes": (lambda: decoded_by("taesd3"), (DECODES,)),
    "another encoded": (lambda: begun_from("taesd3", 0.5), (ENCODED,)),
    "another encoded, of which nothing is left": (lambda: begun_from("taesd3", 1.0), ()),
    "both": (lambda: begun_from("taesd3", 0.5, "taesd3"), (ENCODED, DECODES)),
    "image to image": (lambda: begun_from("copied.safetensors", 0.5), ()),
    "two samplers": (lambda: begun_from("copied.safetensors", 0.5, "taesd3", True), (DECODES,)),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_another_models_vae_is_told_on_the_sampler(server, files, name):
    build, told = GRAPHS[name]
    api = build()
    need_llms(api)
    run = server.draw(api)
    assert run.ending == "execution_success", run.error
    samplers = [i for i, node in api.items() if node["class_type"] == "KSampler"]
    said = "\n".join(run.texts[i][-1] for i in samplers if i in run.texts)
    assert [words in said for words in (ENCODED, DECODES)] == [
        words in told for words in (ENCODED, DECODES)
    ]
    assert said.count("VAE of LI-DiT Model Loader") == len(told)


@pytest.mark.parametrize("name", ["taesd3", "copied.safetensors"])
def test_our_vae_tells_of_another_ones_latents(server, files, name):
    run = server.draw(api := ours_decodes(name))
    assert run.ending == "execution_success", run.error
    told = "\n".join(run.texts.get(node_of(api, "VAEDecode"), []))
    assert ("these latents are of 'taesd3', and this VAE is that of stickers" in told) == (
        name == "taesd3"
    )


def test_the_model_that_drew_latents_is_found(pack, host):
    """Through nodes that patch it and a guider, at the nearest sampler alone."""
    module = pack.module("host.other_vaes")

    def node(kind: str, **inputs):
        return {"class_type": kind, "inputs": inputs}

    graph = {
        "load": node("UNETLoader", unet_name="flux1-dev.safetensors"),
        "ours": node("LiDiTModelLoader", model_name="stickers.safetensors"),
        "lora": node("LoraLoaderModelOnly", model=["load", 0], lora_name="x"),
        "first": node("KSampler", model=["lora", 0]),
        "second": node("KSampler", model=["ours", 0], latent_image=["first", 0]),
        "scaled": node("LatentUpscaleBy", samples=["first", 0]),
        "decode": node("VAEDecode", samples=["scaled", 0], vae=["ours", 1]),
        "right": node("VAEDecode", samples=["second", 0], vae=["ours", 1]),
    }
    assert list(module._models_before(graph, "decode")) == ["load"]
    assert module._other(graph, "load") == "'flux1-dev.safetensors'"
    assert list(module._models_before(graph, "right")) == ["ours"]
    assert not module._other(graph, "ours")


@pytest.mark.parametrize("key, other", [("decoder.conv_in.weight", True),
                                        ("taesd_decoder.1.weight", False)])  # fmt: skip
def test_a_file_of_another_layout_is_another_models(pack, host, key, other):
    """As that of Flux or SD3; one in the layout of ours may be another training of it."""
    module = pack.module("host.other_vaes")
    (host.base / "models" / "vae").mkdir(exist_ok=True)
    save_file({key: torch.zeros(1)}, host.base / "models" / "vae" / "ae.safetensors")
    loader = {"class_type": "VAELoader", "inputs": {"vae_name": "ae.safetensors"}}
    assert module._other({"1": loader}, "1") == ("'ae.safetensors'" if other else "")
    held = {"class_type": "VAELoader", "inputs": {"vae_name": ["9", 0]}}
    assert not module._other({"1": held}, "1")
