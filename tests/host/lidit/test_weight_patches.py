"""Merges and LoRAs of models that a LI-DiT is not like: refused or told. Host's Python."""

from __future__ import annotations

import pytest
import torch
from conftest import wait_for
from model_kit import close, save_noisy_lora, save_small, small_config
from safetensors.torch import save_file

from lidit_core.model.config import LatentFormat
from lidit_core.text.spec import LLMSpec


@pytest.fixture(scope="module", autouse=True)
def merging_nodes(host) -> None:
    for name in ("model_merging", "model_advanced"):
        path = str(host.path / "comfy_extras" / f"nodes_{name}.py")
        assert wait_for(host.nodes.load_custom_node(path, module_parent="comfy_extras"))


@pytest.fixture
def other(kit, tmp_path):
    """`other(depth=3)`: a LI-DiT with other weights."""
    return lambda **changes: kit.model.load_model(
        save_small(tmp_path / "other.safetensors", seed=3, **changes)
    )


MERGES = {
    "ModelMergeSimple": {"ratio": 0.5},
    "ModelMergeAdd": {},
    "ModelMergeSubtract": {"multiplier": 0.5},
    "ModelMergeBlocks": {"input": 0.5, "middle": 0.5, "out": 0.5},
}
RENAMED = LatentFormat("others", 16, 8)
DIFFERENT = {
    "prediction": ({"prediction": "eps"}, "prediction, flow and eps"),
    "blocks": ({"depth": 3}, "depth, 2 and 3"),
    "latents": ({"latent": RENAMED}, "latents, .* and others"),
    "heads": ({"heads": 2}, "heads, 4 and 2"),
    "width": ({"width": 64}, "the shape of diffusion_model"),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_a_merge_with_another_kind_of_model_is_refused(kit, model, other, what):
    """With another width the host only scales the weights; with the rest it adds what it has."""
    changes, words = DIFFERENT[what]
    errors = kit.pack.module("lidit_core.errors")
    merged = kit.stock("ModelMergeSimple", model1=model, model2=other(**changes), ratio=0.5)
    with pytest.raises(errors.LiDiTError, match=f"differs in {words}.*two trainings") as told:
        kit.sample(merged, kit.prompt(seed=1))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("node", MERGES)
def test_shapes_are_looked_at_where_nobody_knows_whose_weights_they_are(kit, model, other, node):
    errors, theirs = kit.pack.module("lidit_core.errors"), other(width=64)
    for weight in theirs.model.diffusion_model.parameters():
        del weight.lidit_owner  # as those that a LoRA has changed in place
    merged = kit.stock(node, model1=model, model2=theirs, **MERGES[node])
    with pytest.raises(errors.LiDiTError, match="the shape of diffusion_model"):
        kit.sample(merged, kit.prompt(seed=1))


def test_two_trainings_are_merged_without_a_word(kit, model, other, caplog):
    prompt = kit.prompt(seed=1)
    plain, theirs = kit.sample(model, prompt), other()
    merged = kit.stock("ModelMergeSimple", model1=model, model2=theirs, ratio=0.5)
    drawn = kit.sample(merged, prompt)
    assert not close(drawn, plain, 1e-2) and not close(drawn, kit.sample(theirs, prompt), 1e-2)
    whole = kit.stock("ModelMergeSimple", model1=model, model2=other(width=64), ratio=1.0)
    assert close(kit.sample(whole, prompt), plain)
    assert not caplog.text


def test_a_merge_of_two_llms_is_told(kit, model, other, caplog):
    alpha, beta = small_config().llms
    theirs = other(llms=(LLMSpec("gamma", alpha.width), beta))
    kit.sample(kit.stock("ModelMergeSimple", model1=model, model2=theirs, ratio=0.5), kit.prompt())
    assert "reads alpha and beta, with one that reads gamma and beta" in caplog.text


def loras(host, name: str, checkpoint) -> str:
    save_noisy_lora(checkpoint, host.base / "models" / "loras" / name, 0.1)
    return name


def test_a_lora_of_another_width_is_told(kit, model, host, tmp_path, caplog):
    """The host tries it at each layer, logs an error and leaves it out."""
    wide = save_small(tmp_path / "wide.safetensors", width=64)
    loader, prompt = host.nodes.LoraLoaderModelOnly(), kit.prompt(seed=1)
    given = loader.load_lora_model_only(model, loras(host, "wide.safetensors", wide), 1.0)[0]
    kit.sample(given, prompt)
    told = [r.getMessage() for r in caplog.records if "lidit" in r.name]
    assert len(told) == 1 and "choose one that was trained on this" in told[0]
    count = len(given.patches)
    assert f"of the {count} weights that a LoRA changes have another shape" in told[0]
    caplog.clear()
    fits = loras(host, "fits.safetensors", kit.checkpoint)
    drawn = kit.sample(loader.load_lora_model_only(model, fits, 1.0)[0], prompt)
    assert not close(drawn, kit.sample(model, prompt), 1e-3) and not caplog.text


@pytest.fixture
def foreign(host) -> str:
    """The file of a LoRA for SDXL, whose names fit nothing here: the host logs them."""
    name = "lora_unet_down_blocks_1_attentions_0_proj_in"
    pair = {f"{name}.lora_{part}.weight": torch.randn(4, 4) for part in ("up", "down")}
    file = host.base / "models" / "loras" / "foreign.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(pair, file)
    return file.name


@pytest.fixture
def notes(caplog):
    """`notes()`: what the pack told since it was last asked."""

    def told() -> list[str]:
        found = [r.getMessage() for r in caplog.records if "lidit" in r.name]
        caplog.clear()
        return found

    return told


def test_a_lora_that_changes_no_weight_is_told(kit, model, host, foreign, notes):
    """Also beside one that fits, before it or after it."""
    loader, prompt = host.nodes.LoraLoaderModelOnly(), kit.prompt(seed=1)
    plain = kit.sample(model, prompt)
    computed = kit.stock("ModelComputeDtype", model=model.clone(), dtype="fp32")
    assert close(kit.sample(computed, prompt), plain) and not notes()
    idle = loader.load_lora_model_only(model, foreign, 1.0)[0]
    assert close(kit.sample(idle, prompt), plain)
    assert "changes none of its weights" in notes()[0]
    fits = loras(host, "fits.safetensors", kit.checkpoint)
    changed = host.nodes.LoraLoaderModelOnly().load_lora_model_only(model, fits, 1.0)[0]
    drawn = kit.sample(changed, prompt)
    assert not close(drawn, plain, 1e-3) and not notes()
    before = host.nodes.LoraLoaderModelOnly().load_lora_model_only(idle, fits, 1.0)[0]
    after = loader.load_lora_model_only(changed, foreign, 1.0)[0]
    for both in (before, after.clone()):
        assert close(kit.sample(both, prompt), drawn)
        assert [told for told in notes() if "changes none of its weights" in told]


def test_a_hook_leaves_no_note_on_the_model(kit, model, host, foreign, tmp_path, notes):
    """The host gives a model another mark for the hooks of one run, and keeps it afterwards."""
    import comfy.hooks
    from safetensors.torch import load_file

    def hooked(lora) -> list:
        hooks = comfy.hooks.create_hook_lora(load_file(lora), 1.0, 0.0)
        return comfy.hooks.set_hooks_for_conditioning(kit.prompt(seed=1), hooks)

    fits = save_noisy_lora(kit.checkpoint, tmp_path / "lora.safetensors", 0.1)
    plain = kit.sample(model, kit.prompt(seed=1))
    assert not close(kit.sample(model, hooked(fits)), plain, 1e-3) and not notes()
    assert close(kit.sample(model, kit.prompt(seed=1)), plain) and not notes()
    folder = host.base / "models" / "loras"
    assert close(kit.sample(model, hooked(folder / foreign)), plain)
    assert "changes none of its weights" in notes()[0]
    assert close(kit.sample(model, kit.prompt(seed=1)), plain) and not notes()


def test_a_lora_of_a_hook_is_looked_at(kit, model, tmp_path, caplog):
    import comfy.hooks
    from safetensors.torch import load_file

    wide = save_small(tmp_path / "wide.safetensors", width=64)
    lora = load_file(save_noisy_lora(wide, tmp_path / "lora.safetensors", 0.1))
    hooks = comfy.hooks.create_hook_lora(lora, strength_model=1.0, strength_clip=0.0)
    hooked = comfy.hooks.set_hooks_for_conditioning(kit.prompt(seed=1), hooks)
    kit.sample(model, hooked)
    assert "choose one that was trained on this" in caplog.text
