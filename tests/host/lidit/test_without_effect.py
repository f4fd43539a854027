"""What another node does that a LI-DiT cannot follow: told or refused. Host's Python."""

from __future__ import annotations

import inspect
import re

import pytest
import torch
from conftest import wait_for
from llmdiff_kit import controlnet
from model_kit import close, empty, save_hypernetwork


@pytest.fixture(scope="module", autouse=True)
def extra_nodes(host) -> None:
    for name in ("slg", "sd3", "context_windows", "rope", "lt", "edit_model", "flux"):
        path = host.path / "comfy_extras" / f"nodes_{name}.py"
        if path.exists():
            loaded = host.nodes.load_custom_node(str(path), module_parent="comfy_extras")
            assert wait_for(loaded), name


def notes(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if "lidit" in r.name]


WHOLE = {"start_percent": 0.0, "end_percent": 1.0}
SKIPPING = {
    "SkipLayerGuidanceDiT": {"scale": 3.0, "double_layers": "7, 8", "single_layers": "7"},
    "SkipLayerGuidanceDiTSimple": {"double_layers": "7, 8", "single_layers": "7"},
    "SkipLayerGuidanceSD3": {"layers": "7, 8", "scale": 3.0},
}


@pytest.mark.parametrize("node", SKIPPING)
def test_blocks_that_are_not_there_are_told(kit, model, node, caplog):
    """As those that nodes which skip blocks have by default."""
    skipping = kit.stock_v3(node, model=model, **SKIPPING[node], **WHOLE)
    kit.sample(skipping, kit.prompt(seed=1), steps=1)
    assert "double_block 7, double_block 8" in notes(caplog)[0]
    assert "its blocks are double_block 0 to 1:" in notes(caplog)[0]


def test_blocks_of_a_kind_that_a_lidit_lacks_are_told_where_no_other_is_named(kit, model, caplog):
    both = {"scale": 3.0, **WHOLE, "double_layers": "1", "single_layers": "7"}
    skipping = kit.stock_v3("SkipLayerGuidanceDiT", model=model, **both)
    kit.sample(skipping, kit.prompt(seed=1))
    assert not notes(caplog)
    single = kit.stock_v3("SkipLayerGuidanceDiT", model=model, **{**both, "double_layers": ""})
    kit.sample(single, kit.prompt(seed=1))
    assert "single_block 7, which this LI-DiT does not have" in notes(caplog)[0]


def test_attention_of_a_block_that_is_not_there_is_told(kit, model, caplog):
    changed = model.clone()
    changed.set_model_attn1_replace(lambda q, k, v, extra: v, "double_block", 9)
    assert close(kit.sample(changed, kit.prompt(seed=1)), kit.sample(model, kit.prompt(seed=1)))
    assert "double_block 9" in notes(caplog)[0]


STILL = {"scale_t": 1.0, **dict.fromkeys(("shift_x", "shift_y", "shift_t"), 0.0)}
FOR_OTHERS = {
    "ScaleROPE": {"scale_x": 1.5, "scale_y": 1.0, **STILL},
    "LTXVSpatioTemporalGuidance": {"scale": 1.0, "blocks": "1", **WHOLE},
    "LTXVModalityGuidance": {"modality_scale": 3.0, **WHOLE},
}


@pytest.mark.parametrize("node", FOR_OTHERS)
def test_an_option_that_models_of_other_kinds_read_is_told(kit, model, node, caplog):
    if node not in kit.host.nodes.NODE_CLASS_MAPPINGS:
        pytest.skip(f"this ComfyUI has no {node}")
    plain = kit.sample(model, kit.prompt(seed=1))
    drawn = kit.sample(kit.stock_v3(node, model=model, **FOR_OTHERS[node]), kit.prompt(seed=1))
    assert close(drawn, plain) and f"{node} " in notes(caplog)[0]
    caplog.clear()
    if node == "ScaleROPE":
        still = kit.stock_v3(node, model=model, **{**FOR_OTHERS[node], "scale_x": 1.0})
        kit.sample(still, kit.prompt(seed=1))
        assert not notes(caplog)


def test_a_picture_in_a_conditioning_is_told(kit, model, caplog):
    picture, prompt = {"samples": torch.randn(1, 16, 4, 4)}, kit.prompt(seed=1)
    drawn = kit.sample(model, prompt)
    assert not notes(caplog)
    shown = kit.stock_v3("ReferenceLatent", conditioning=prompt, latent=picture)
    assert torch.equal(kit.sample(model, shown), drawn)
    assert "holds a picture (reference_latents), and a LI-DiT" in notes(caplog)[0]


WRITTEN = re.compile(r"conditioning_set_values\(\s*\w+,\s*\{(.*?)\}", re.DOTALL)
READ = {"area", "set_area_to_bounds", "strength", "mask", "mask_strength"}  # by the host itself
READ |= {"start_percent", "end_percent", "prompt_type", "concat_mask"}


def test_whatever_a_node_writes_into_a_conditioning_is_read_or_told(kit, model, caplog):
    """By the names in the host's nodes: those of a newer host are found too."""
    files = [kit.host.path / "nodes.py", *(kit.host.path / "comfy_extras").glob("*.py")]
    calls = [call for file in files for call in WRITTEN.findall(file.read_text("utf-8"))]
    names = {name for call in calls for name in re.findall(r"[\"'](\w+)[\"']\s*:", call)} - READ
    assert {"guidance", "reference_latents", "audio_embed"} < names
    ((c0, values),) = kit.prompt(seed=1)
    told = kit.pack.module("host.lidit.told")
    silent = []
    for name in sorted(names):
        caplog.clear()
        told.tell_unread({**values, name: torch.ones(1)})
        silent += [name] * (name not in caplog.text)
    assert silent == []
    caplog.clear()
    guided = kit.stock_v3("FluxGuidance", conditioning=[[c0, values]], guidance=8.0)
    assert torch.equal(kit.sample(model, guided), kit.sample(model, [[c0, values]]))
    assert "holds guidance, which models of other kinds read" in caplog.text


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_controlnet_is_refused_in_a_sentence(kit, model, family):
    """It ended in the host's KeyError, as it looks for text that a LI-DiT has elsewhere."""
    errors, (control, _) = kit.pack.module("lidit_core.errors"), controlnet(family)
    guided = kit.stock(
        "ControlNetApply",
        conditioning=kit.prompt(seed=1),
        control_net=control,
        image=torch.rand(1, 32, 32, 3),
        strength=1.0,
    )
    with pytest.raises(errors.LiDiTError, match="a ControlNet is connected"):
        kit.sample(model, guided)


def test_gligen_is_refused_in_a_sentence(kit, model):
    """The host would have it compute on U-Net blocks, and with text of its own width."""
    errors, box = kit.pack.module("lidit_core.errors"), (torch.zeros(1, 24), 4, 4, 0, 0)
    ((c0, values),) = kit.prompt(seed=1)
    with pytest.raises(errors.LiDiTError, match="no GLIGEN exists for LI-DiT"):
        kit.sample(model, [[c0, {**values, "gligen": ("position", gligen(), [box])}]])


@pytest.mark.parametrize("widths", [(768,), (32, 768)])
def test_a_hypernetwork_is_refused_in_a_sentence(kit, host, model, widths):
    """It did nothing, or changed what happened to be as wide as one of its parts."""
    name = f"{len(widths)}.pt"
    save_hypernetwork(host.base / "models" / "hypernetworks" / name, widths, 0.1)
    path = str(host.path / "comfy_extras" / "nodes_hypernetwork.py")
    assert wait_for(host.nodes.load_custom_node(path, module_parent="comfy_extras"))
    how, prompt = {"hypernetwork_name": name, "model": model}, kit.prompt(seed=1)
    errors = kit.pack.module("lidit_core.errors")
    with pytest.raises(errors.LiDiTError, match="a hypernetwork is connected, and none exists"):
        kit.sample(kit.stock("HypernetworkLoader", strength=1.0, **how), prompt)
    idle = kit.stock("HypernetworkLoader", strength=0.0, **how)
    assert close(kit.sample(idle, prompt), kit.sample(model, prompt))


def gligen():
    """As the host's loader makes it of a file for SD1.5."""
    import comfy.gligen
    import comfy.model_patcher

    position = comfy.gligen.PositionNet(768, 768)
    network = comfy.gligen.Gligen([], position, 768)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(network, load_device=cpu, offload_device=cpu)


def test_a_mask_that_the_sampler_is_not_given_is_told(kit, model, caplog):
    """As InpaintModelConditioning gives it with noise_mask switched off."""
    ((c0, values),) = kit.prompt(seed=1)
    mask = torch.ones(1, 1, 4, 4)
    given = {"concat_latent_image": torch.zeros(1, 16, 4, 4), "concat_mask": mask}
    kit.sample(model, [[c0, {**values, **given}]], latent={**empty(), "noise_mask": mask})
    assert not notes(caplog)
    kit.sample(model, [[c0, {**values, **given}]])
    assert "switch on its noise_mask" in notes(caplog)[0]


class Called(Exception):
    """What a node gave a model was run."""


def run(*args, **kwargs):
    raise Called


PLACE = {"name": "attn2", "block_name": "double_block", "number": 0}


def test_whatever_a_node_may_set_on_a_model_runs_or_ends_in_a_sentence(kit, model):
    """By each of the host's methods for it: those of a newer host are tried too."""
    import comfy.model_patcher

    errors, found = kit.pack.module("lidit_core.errors"), comfy.model_patcher.ModelPatcher
    latent = {**empty(), "noise_mask": torch.ones(1, 4, 4)}
    ends = {}
    for name in [each for each in dir(found) if each.startswith("set_model_")]:
        wanted = inspect.signature(getattr(found, name)).parameters
        runs = [w for w in wanted if any(word in w for word in ("patch", "function", "attention"))]
        if len(runs) != 1:  # numbers, a dtype
            continue
        changed = model.clone()
        getattr(changed, name)(**{runs[0]: run}, **{w: PLACE[w] for w in wanted if w in PLACE})
        with pytest.raises((Called, errors.LiDiTError)) as told:
            kit.sample(changed, kit.prompt(seed=1), latent=latent)
        ends[name] = told.type
    assert Called in ends.values() and errors.LiDiTError in ends.values()
    assert all(ends[f"set_model_attn{n}_{kind}"] is Called for n in "12" for kind in KINDS)


KINDS = ("patch", "output_patch", "replace")


@pytest.mark.parametrize("block", ["input", "middle", "output"])
def test_attention_of_a_u_nets_blocks_is_refused(kit, model, block):
    """As IP-Adapters replace it, which bring a picture in beside the text."""
    errors, changed = kit.pack.module("lidit_core.errors"), model.clone()
    changed.set_model_attn2_replace(run, block, 0, 0)
    with pytest.raises(errors.LiDiTError, match=rf"patches attn2 at \('{block}', 0, 0\)"):
        kit.sample(changed, kit.prompt(seed=1))


def test_what_replaces_the_attention_to_text_sees_no_padding(kit, model):
    """Nor does what adds tokens to it; of two prompts in one batch the shorter is padded."""
    from comfy.ldm.modules.attention import attention_pytorch

    def again(q, k, v, extra):
        return attention_pytorch(q, k, v, extra["n_heads"])

    def more(q, k, v, extra):
        return q, torch.cat([k, k], 1), torch.cat([v, v], 1)

    replaced, doubled, prompt = model.clone(), model.clone(), kit.prompt(seed=1)
    for index in range(model.model.model_config.config.depth):
        replaced.set_model_attn2_replace(again, "double_block", index)
    doubled.set_model_attn2_patch(more)
    plain = kit.sample(model, prompt)
    assert close(kit.sample(replaced, prompt), plain, 1e-4)
    assert close(kit.sample(doubled, prompt), plain, 1e-4)


@pytest.mark.parametrize("strength", ["multiply", "attn_bias"])
def test_a_style_models_tokens_are_refused(kit, model, strength):
    """Where they are as wide as the LLM's states; others end in the node of the host itself."""
    import comfy.clip_vision
    import comfy.ldm.flux.redux
    import comfy.sd

    errors, prompt = kit.pack.module("lidit_core.errors"), kit.prompt(seed=1)
    redux = comfy.ldm.flux.redux.ReduxImageEncoder(8, prompt[0][0].shape[-1], dtype=torch.float32)
    seen = comfy.clip_vision.Output()
    seen["last_hidden_state"] = torch.randn(1, 5, 8)
    given = {"style_model": comfy.sd.StyleModel(redux), "clip_vision_output": seen}
    styled = kit.stock(
        "StyleModelApply", conditioning=prompt, strength=0.5, strength_type=strength, **given
    )
    with pytest.raises(errors.LiDiTError, match=r"first tensor to \(1, 14, 24\).*style model"):
        kit.sample(model, styled)


def test_what_replaces_a_part_of_no_name_that_we_know_is_refused(kit, model):
    errors, changed = kit.pack.module("lidit_core.errors"), model.clone()
    changed.set_model_patch_replace(lambda *_: None, "norm1", "double_block", 0)
    with pytest.raises(errors.LiDiTError, match=r"patches norm1 at \('double_block', 0\)"):
        kit.sample(changed, kit.prompt(seed=1))


@pytest.mark.parametrize("share", [slice(0, 1), slice(0, 4)])
def test_a_node_that_divides_the_batch_is_told(kit, model, share):
    """The prompts of a batch lie in an object, which it cannot divide as it does tensors."""
    errors = kit.pack.module("lidit_core.errors")

    def dividing(apply, given):
        x = torch.cat([given["input"]] * 2)[share]
        return apply(x, given["timestep"][:1].expand(len(x)), **given["c"])[:1]

    changed = model.clone()
    changed.set_model_unet_function_wrapper(dividing)
    with pytest.raises(errors.LiDiTError, match="pictures at once, and there are 2 prompts"):
        kit.sample(changed, kit.prompt(seed=1))


def test_windows_over_pictures_with_prompts_of_their_own_are_refused(kit, model):
    errors, how = kit.pack.module("lidit_core.errors"), {"context_overlap": 0, "context_stride": 1}
    how |= {"context_schedule": "standard_static", "closed_loop": False, "fuse_method": "flat"}
    node = kit.host.nodes.NODE_CLASS_MAPPINGS["ContextWindowsManual"]
    if is_new := "freenoise" in inspect.signature(node.execute).parameters:
        how["freenoise"] = False
    windows = kit.stock_v3("ContextWindowsManual", model=model, context_length=2, dim=0, **how)
    one, each = kit.prompt(seed=1), kit.prompt(seed=1, rows=4)
    if is_new:  # older hosts fail at a window over a batch, whatever the model
        drawn = kit.sample(windows, one, latent=empty(4))
        assert close(drawn, kit.sample(model, one, latent=empty(4)))
    assert kit.sample(windows, each, latent=empty(2)).isfinite().all()
    with pytest.raises(errors.LiDiTError, match="batch of 4 in windows of 2.*holds 4 prompts"):
        kit.sample(windows, each, latent=empty(4))
