"""LoRAs of every kind whose width is another model's, on MODEL and CLIP. Run: see conftest.py"""

from __future__ import annotations

import pytest
import torch
from clip_kit import fresh_loader, save_llms, states
from model_kit import close

PROMPT = "a boat that no other test of LoRAs has asked for"
RANK, BLOCK = 2, 4


def lora(kind: str, name: str, rows: int, columns: int) -> dict[str, torch.Tensor]:
    """A LoRA of one map of so many rows and columns, of each kind that the host reads."""
    sizes = {
        "lora": {"lora_up.weight": (rows, RANK), "lora_down.weight": (RANK, columns)},
        "loha": {
            **{"hada_w1_a": (rows, RANK), "hada_w1_b": (RANK, columns)},
            **{"hada_w2_a": (rows, RANK), "hada_w2_b": (RANK, columns)},
        },
        "lokr": {
            **{"lokr_w1": (BLOCK, BLOCK), "lokr_w2_a": (rows // BLOCK, RANK)},
            "lokr_w2_b": (RANK, columns // BLOCK),
        },
        "glora": {
            **{"a1.weight": (RANK, columns), "a2.weight": (columns, RANK)},
            **{"b1.weight": (rows, RANK), "b2.weight": (RANK, columns)},
        },
        "oft": {"oft_blocks": (rows // BLOCK, BLOCK, BLOCK)},
        "boft": {"oft_blocks": (1, rows // BLOCK, BLOCK, BLOCK)},
    }
    torch.manual_seed(0)
    return {f"{name}.{part}": torch.randn(size) / 4 for part, size in sizes[kind].items()}


KINDS = ["lora", "loha", "lokr", "glora", "oft", "boft"]
BREAKS = (
    "oft"  # in bypass mode with more than one token, whatever the model, by a view of PyTorch's
)


@pytest.fixture
def errors(pack):
    return pack.module("lidit_core.errors")


@pytest.fixture
def bypassed():
    """`bypassed(MODEL or None, CLIP or None, LoRA)`: both with the LoRA in bypass mode."""
    import comfy.sd

    if not hasattr(comfy.sd, "load_bypass_lora_for_models"):
        pytest.skip("this ComfyUI has no bypass mode")
    return lambda *given: comfy.sd.load_bypass_lora_for_models(*given, 1.0, 1.0)


def of_model(model, kind: str, times: int = 1) -> dict[str, torch.Tensor]:
    name = "blocks.0.mlp.0"
    rows, columns = model.model.diffusion_model.get_submodule(name).weight.shape
    return lora(kind, f"diffusion_model.{name}", times * rows, times * columns)


def of_clip(clip, kind: str, times: int = 1) -> dict[str, torch.Tensor]:
    name = "transformer.layers.0.mlp.down_proj"
    rows, columns = clip.cond_stage_model.get_submodule(name).weight.shape
    return lora(kind, f"text_encoders.{name}", times * rows, times * columns)


@pytest.fixture
def load(pack, host):
    save_llms(host)
    return fresh_loader(pack)


@pytest.mark.parametrize("kind", KINDS)
def test_one_for_a_wider_model_is_refused_in_bypass_mode(kit, model, bypassed, errors, kind):
    prompt = kit.prompt(seed=1)
    with pytest.raises(errors.LiDiTError, match=r"changes diffusion_model\.blocks\.0\.mlp\.0 of"):
        kit.sample(bypassed(model, None, of_model(model, kind, 2))[0], prompt)
    fits = bypassed(model, None, of_model(model, kind))[0]
    assert kind == BREAKS or not close(kit.sample(fits, prompt), kit.sample(model, prompt), 1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_one_for_a_wider_llm_is_refused_in_bypass_mode(load, bypassed, errors, kind):
    """Also of a CLIP whose LoRAs are scheduled, of which the host encodes by itself."""
    clip = load()
    wide = bypassed(None, clip, of_clip(clip, kind, 2))[1]
    for node in (states, scheduled):
        with pytest.raises(errors.LiDiTError) as told:
            node(wide, PROMPT)
        said = str(told.value)
        assert "transformer.layers.0.mlp.down_proj of Llama" in said and "\n" not in said
        assert "and it is (" in said and "choose one that was trained on this" in said
    fits = bypassed(None, clip, of_clip(clip, kind))[1]
    assert kind == BREAKS or not torch.allclose(
        states(fits, PROMPT), states(clip, PROMPT), rtol=1e-3
    )


def scheduled(clip, prompt: str):
    """As a node encodes after Set CLIP Hooks with its schedule."""
    import comfy.hooks

    hooked = clip.clone()
    hooks = comfy.hooks.create_hook_lora({}, strength_model=0.0, strength_clip=1.0)
    hooked.patcher.forced_hooks, hooked.use_clip_schedule = hooks, True
    with torch.inference_mode():
        return hooked.encode_from_tokens_scheduled(hooked.tokenize(prompt))


@pytest.mark.parametrize("kind", KINDS)
def test_one_for_a_wider_model_is_told_of(kit, model, load, kind, new_notes):
    """The host leaves it out, which it tells its log alone, LoKr's and GLoRA's among them."""
    import comfy.sd

    prompt, clip = kit.prompt(seed=1), load()
    for times in (1, 2):
        made = {**of_model(model, kind, times), **of_clip(clip, kind, times)}
        changed, read = comfy.sd.load_lora_for_models(model, clip, made, 1.0, 1.0)
        kit.sample(changed, prompt)
        states(read, PROMPT)
        told = ["of the 1 weights that a LoRA changes have another shape" in n for n in new_notes()]
        assert told == [True, True] * (times - 1), times
