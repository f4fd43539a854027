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


def test_a_lora_that_changes_no_weight_is_told(kit, model, host, foreign, new_notes):
    """Also beside one that fits, before it or after it."""
    loader, prompt = host.nodes.LoraLoaderModelOnly(), kit.prompt(seed=1)
    plain = kit.sample(model, prompt)
    computed = kit.stock("ModelComputeDtype", model=model.clone(), dtype="fp32")
    assert close(kit.sample(computed, prompt), plain) and not new_notes()
    idle = loader.load_lora_model_only(model, foreign, 1.0)[0]
    assert close(kit.sample(idle, prompt), plain)
    assert "changes none of its weights" in new_notes()[0]
    fits = loras(host, "fits.safetensors", kit.checkpoint)
    changed = host.nodes.LoraLoaderModelOnly().load_lora_model_only(model, fits, 1.0)[0]
    drawn = kit.sample(changed, prompt)
    assert not close(drawn, plain, 1e-3) and not new_notes()
    before = host.nodes.LoraLoaderModelOnly().load_lora_model_only(idle, fits, 1.0)[0]
    after = loader.load_lora_model_only(changed, foreign, 1.0)[0]
    for both in (before, after.clone()):
        assert close(kit.sample(both, prompt), drawn)
        assert [told for told in new_notes() if "changes none of its weights" in told]


@pytest.fixture
def loading(host):
    """`loading(model, "fits", BYPASS)`: what a loader of LoRAs gives, run as the host runs it."""
    import comfy.sd
    from comfy_execution.utils import CurrentNodeContext
    from safetensors.torch import load_file

    def load(model, name: str, mode: str = "", strength: float = 1.0):
        if not hasattr(comfy.sd, f"load_{mode}lora_for_models"):
            pytest.skip("this ComfyUI has no bypass mode")
        read = getattr(comfy.sd, f"load_{mode}lora_for_models")
        with CurrentNodeContext("prompt", f"loader {name}"):
            lora = load_file(host.base / "models" / "loras" / f"{name}.safetensors")
            return read(model, None, lora, strength, 0.0)[0]

    return load


@pytest.fixture
def files(kit, host, foreign, tmp_path) -> None:
    """LoRAs: `fits`, `foreign`, `partly` with the tensors of both, and `wide` of another width."""
    from safetensors.torch import load_file

    folder = host.base / "models" / "loras"
    fits = load_file(folder / loras(host, "fits.safetensors", kit.checkpoint))
    save_file(fits | load_file(folder / foreign), folder / "partly.safetensors")
    loras(host, "wide.safetensors", save_small(tmp_path / "wide.safetensors", width=64))


BYPASS = "bypass_"
MODES = ["", BYPASS]


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("mode", MODES)
def test_a_lora_of_which_some_tensors_fit_is_told(kit, model, loading, mode, new_notes):
    prompt, fits = kit.prompt(seed=1), loading(model, "fits", mode)
    drawn = kit.sample(fits, prompt)
    assert not close(drawn, kit.sample(model, prompt), 1e-3) and not new_notes()
    partly = loading(model, "partly", mode)
    for each in (partly, partly.clone()):
        assert close(kit.sample(each, prompt), drawn)
        (told,) = new_notes()
        assert "2 tensors more, such as 'lora_unet_down_blocks_1_" in told
    kit.sample(fits, prompt)
    assert not new_notes()


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("mode", MODES)
def test_a_foreign_lora_is_told_in_both_modes(kit, model, loading, mode, new_notes):
    prompt = kit.prompt(seed=1)
    foreign = loading(model, "foreign", mode)
    assert close(kit.sample(foreign, prompt), kit.sample(model, prompt))
    (told,) = new_notes()
    assert "changes none of its weights" in told
    both = loading(foreign, "fits", mode)
    assert close(kit.sample(both, prompt), kit.sample(loading(model, "fits", mode), prompt))
    assert new_notes() == [told]


@pytest.mark.usefixtures("files")
def test_what_another_models_lora_left_out_is_not_told_of_this(kit, model, loading, new_notes):
    """Of a loader before, whose LoRA was for a CLIP."""
    import comfy.lora
    from comfy_execution.utils import CurrentNodeContext

    with CurrentNodeContext("prompt", "another loader"):
        comfy.lora.load_lora({"lora_te1_x.alpha": torch.ones(())}, {})
    with CurrentNodeContext("prompt", "a patching node"):
        with_it = model.clone()
    kit.sample(with_it, kit.prompt(seed=1))
    assert not new_notes()


@pytest.mark.usefixtures("files")
def test_a_lora_of_another_width_is_refused_in_bypass_mode(kit, model, loading):
    """The host computes its part beside each layer, and PyTorch cannot."""
    errors, wide = kit.pack.module("lidit_core.errors"), loading(model, "wide", BYPASS)
    with pytest.raises(errors.LiDiTError, match="a LoRA in bypass mode changes .* another model"):
        kit.sample(wide, kit.prompt(seed=1))
    fits = loading(model, "fits", BYPASS)
    assert kit.sample(fits, kit.prompt(seed=1)).isfinite().all()


@pytest.mark.usefixtures("files")
def test_bypass_mode_draws_as_the_other_whatever_was_drawn_before(kit, model, loading, new_notes):
    prompt = kit.prompt(seed=1)
    for strength in (1.0, 0.3, -0.5):
        drawn = [kit.sample(loading(model, "fits", mode, strength), prompt) for mode in MODES]
        assert close(*drawn, 1e-4), strength
    assert not new_notes()


@pytest.mark.usefixtures("files")
def test_a_second_lora_in_bypass_mode_is_told(kit, model, loading, new_notes):
    prompt = kit.prompt(seed=1)
    once = loading(model, "fits", BYPASS)
    twice = loading(once, "fits", BYPASS, 0.3)
    drawn = kit.sample(twice, prompt)
    assert close(drawn, kit.sample(loading(model, "fits", BYPASS, 0.3), prompt))
    assert ["takes the second one in the place of the first" in told for told in new_notes()] == [
        True
    ]


def test_weights_that_a_patch_names_and_a_model_lacks_are_told(kit, model, new_notes):
    """Whatever node sets it; those of a CLIP, to which a loader gives the same patches, are not."""
    changed, (own, *_) = model.clone(), model.get_key_patches("diffusion_model.")
    weight = (torch.zeros_like(model.model_state_dict()[own]),)
    changed.add_patches({own: weight, "diffusion_model.blocks.9.mlp.0.weight": weight})
    kit.sample(changed, kit.prompt(seed=1))
    assert ["such as 'diffusion_model.blocks.9" in told for told in new_notes()] == [True]
    for_clip = model.clone()
    for_clip.add_patches({own: weight, "clip_l.transformer.text_projection.weight": weight})
    kit.sample(for_clip, kit.prompt(seed=1))
    assert not new_notes()


def test_a_hook_leaves_no_note_on_the_model(kit, model, host, foreign, tmp_path, new_notes):
    """The host gives a model another mark for the hooks of one run, and keeps it afterwards."""
    import comfy.hooks
    from safetensors.torch import load_file

    def hooked(lora) -> list:
        hooks = comfy.hooks.create_hook_lora(load_file(lora), 1.0, 0.0)
        return comfy.hooks.set_hooks_for_conditioning(kit.prompt(seed=1), hooks)

    fits = save_noisy_lora(kit.checkpoint, tmp_path / "lora.safetensors", 0.1)
    plain = kit.sample(model, kit.prompt(seed=1))
    assert not close(kit.sample(model, hooked(fits)), plain, 1e-3) and not new_notes()
    assert close(kit.sample(model, kit.prompt(seed=1)), plain) and not new_notes()
    folder = host.base / "models" / "loras"
    assert close(kit.sample(model, hooked(folder / foreign)), plain)
    assert "changes none of its weights" in new_notes()[0]
    assert close(kit.sample(model, kit.prompt(seed=1)), plain) and not new_notes()
    save_file(load_file(fits) | load_file(folder / foreign), folder / "partly.safetensors")
    kit.sample(model, hooked(folder / "partly.safetensors"))
    assert "2 tensors more, such as 'lora_unet_down_blocks_1_" in new_notes()[0]
    for_clip = {"text_encoders.x.lora_up.weight": torch.ones(2, 2)}
    save_file(load_file(fits) | for_clip, folder / "both.safetensors")
    kit.sample(model, hooked(folder / "both.safetensors"))
    assert not new_notes()


def test_a_lora_of_a_hook_is_looked_at(kit, model, tmp_path, caplog):
    import comfy.hooks
    from safetensors.torch import load_file

    wide = save_small(tmp_path / "wide.safetensors", width=64)
    lora = load_file(save_noisy_lora(wide, tmp_path / "lora.safetensors", 0.1))
    hooks = comfy.hooks.create_hook_lora(lora, strength_model=1.0, strength_clip=0.0)
    hooked = comfy.hooks.set_hooks_for_conditioning(kit.prompt(seed=1), hooks)
    kit.sample(model, hooked)
    assert "choose one that was trained on this" in caplog.text
