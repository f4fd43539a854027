"""Several layers of an LLM, registers and gates without time, in the host. Run: see conftest.py"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from clip_kit import fresh_loader, save_llms
from model_kit import close, fuse
from tiny_lidit import lidit_config, randomise

from lidit_core.checkpoints.lidit import save_lidit
from lidit_core.model.dit import LiDiT

TAPS = (-3, 1, -5)  # of the tiny LLMs' six blocks
SWITCHES = {
    "mean": {},
    "linear": {"mix": "linear"},
    "routed": {"mix": "routed"},
    "registers": {"registers": 3},
    "registers of the refiners alone": {"registers": 3, "registers_kept": False},
    "gates without time": {"gates": "none"},
}


def config_of(**switches):
    config = lidit_config("Llama", "Gemma3Text")
    llms = (replace(config.llms[0], block=TAPS), config.llms[1])
    return replace(config, llms=llms, refiner=replace(config.refiner, **switches))


@pytest.fixture
def load(pack, host):
    save_llms(host)
    return fresh_loader(pack)


@pytest.mark.parametrize("name", SWITCHES)
def test_the_host_draws_what_the_library_computes(kit, pack, load, tmp_path, name):
    """One step without guidance against the library's own model."""
    config = config_of(**SWITCHES[name])
    model = randomise(LiDiT(config), scale=0.2).eval()
    save_lidit(model, config, tmp_path / "model.safetensors")
    hosts = kit.model.load_model(tmp_path / "model.safetensors")
    one = pack.run("LiDiTTextEncode", clip=load(layer="-3,1,-5"), text="two cats")[0]
    two = pack.run("LiDiTTextEncode", clip=load("Gemma3Text"), text="two cats")[0]
    assert one[0][0].shape[2] == 3 * 32
    with torch.inference_mode():
        text = kit.cond.text_of(*fuse(kit, one, two)[0])
        read = kit.pack.module("host.lidit.branches").model_text(
            text, hosts.model.model_config.config
        )
        x = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(1))
        t = torch.tensor([600.0])
        hosts_own = hosts.model.diffusion_model.float()
        found = hosts_own(x, t, transformer_options={}, **{kit.keys.TEXT: read})
        library = pack.module("lidit_core.text.states")
        assert isinstance(read.states[0], library.LLMStates)
    from lidit_core.text.states import LLMStates

    given = {i: LLMStates(of.hidden.clone(), of.roles.clone()) for i, of in read.states.items()}
    with torch.no_grad():
        assert close(found, model(x, t, given), 1e-4)


def test_another_layer_than_trained_gets_one_sentence(kit, pack, load, tmp_path):
    config = config_of()
    save_lidit(randomise(LiDiT(config)), config, tmp_path / "model.safetensors")
    model = kit.model.load_model(tmp_path / "model.safetensors")
    one = pack.run("LiDiTTextEncode", clip=load(), text="two cats")[0]
    with pytest.raises(Exception, match="96 wide: layer -3,1,-5 in the LLM loader"):
        kit.sample(model, one, one)


@pytest.mark.parametrize("layer", ["-3,", "-3,x", "-3,-3", "-3,-9"])
def test_bad_layers_get_one_sentence(load, layer):
    with pytest.raises(Exception, match="layer is|different whole numbers|is not in"):
        load(layer=layer)


def test_one_layer_is_read_as_ever(load):
    one, same = load(layer="-3"), load(layer=" -3 ")
    assert one.cond_stage_model.settings.block == same.cond_stage_model.settings.block == -3
