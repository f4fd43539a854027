"""LoRAs and merges on our CLIPs that change nothing. Run: see conftest.py"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bridge_encoders import check_same, entries_of, host_encoder
from bridge_files import Bench, node

LORA = "are for a checkpoint's text encoder, such as 'lora_te1_"
MERGE = "changes none of its weights, as the other CLIP is of another kind"
FOR_A_MODEL = "lora_unet_down_blocks_1_attentions_0_proj_in"


@pytest.fixture(scope="module")
def bench(pack, host) -> Bench:
    return Bench(pack, host)


@pytest.fixture(scope="module")
def clips(bench) -> dict[str, Any]:
    """A bridge for SDXL, and the LLM that it reads."""
    llm = bench.llm()
    return {"bridge": bench.clip(bench.bridge("sdxl")[1], llm), "llm": llm}


def lora_for(encoder, *more: str) -> dict[str, torch.Tensor]:
    """A LoRA of rank 1 on one layer of a text encoder, and what else has these names."""
    import comfy.lora

    names = comfy.lora.model_lora_keys_clip(encoder.cond_stage_model, {})
    name = next(name for name in names if name.startswith("lora_te1"))
    rows, columns = encoder.cond_stage_model.state_dict()[names[name]].shape
    shapes = {name: (rows, columns), **dict.fromkeys(more, (4, 4))}
    made = {f"{n}.lora_up.weight": torch.ones(shape[0], 1) for n, shape in shapes.items()}
    return made | {f"{n}.lora_down.weight": torch.ones(1, s[1]) for n, s in shapes.items()}


def loaded(clip, lora, strength: float = 1.0):
    """The CLIP that Load LoRA gives."""
    import comfy.sd
    from comfy_execution.utils import CurrentNodeContext

    with CurrentNodeContext("prompt", f"Load LoRA {id(lora)} {strength}"):
        return comfy.sd.load_lora_for_models(None, clip, lora, 1.0, strength)[1]


@pytest.fixture
def told(pack, monkeypatch):
    """What is noted when a CLIP encodes a prompt."""
    found: list[str] = []
    monkeypatch.setattr(pack.module("host.patching.clip_patches"), "note", found.append)

    def encoding(clip) -> list[str]:
        found.clear()
        entries_of(clip, "a red cat")
        return list(dict.fromkeys(found))

    return encoding


@pytest.fixture(scope="module", autouse=True)
def listening(pack):
    """Hear what the host logs of a LoRA, as the pack does in a running host."""
    patching = pack.module("host.patching.lora_log")
    pack.module("host.node_notes").hear_warnings(patching.left_out)


@pytest.mark.parametrize("kind", ["bridge", "llm"])
def test_a_lora_for_the_checkpoints_encoder_is_told(clips, told, kind):
    clip, own = clips[kind], host_encoder("sdxl")
    lora = lora_for(own, FOR_A_MODEL)
    assert not told(clip)
    for patched in (loaded(clip, lora), loaded(clip, lora).clone()):
        (sentence,) = told(patched)
        assert LORA in sentence and sentence.startswith("2 tensors of a LoRA")
        assert "\n" not in sentence
    assert not told(clip) and not told(loaded(clip, lora, 0.0))
    changed = entries_of(loaded(own, lora), "a red cat")[0][0]
    assert not torch.equal(changed, entries_of(own, "a red cat")[0][0])  # where it does belong


@pytest.mark.parametrize("kind", ["bridge", "llm"])
def test_a_lora_for_the_model_alone_comes_through_quietly(clips, told, kind):
    lora = lora_for(host_encoder("sdxl"), FOR_A_MODEL)
    for_model = {name: tensor for name, tensor in lora.items() if name.startswith(FOR_A_MODEL)}
    assert len(for_model) == 2 and not told(loaded(clips[kind], for_model))


def hooks_of(lora, *keyframes: tuple[float, float], strength: float = 1.0):
    """What Create Hook LoRA gives, with keyframes: each a strength and where it begins."""
    import comfy.hooks

    hooks = comfy.hooks.create_hook_lora(lora, strength_model=1.0, strength_clip=strength)
    if keyframes:
        group = comfy.hooks.HookKeyframeGroup()
        for strong, begins in keyframes:
            group.add(comfy.hooks.HookKeyframe(strong, begins))
        hooks.set_keyframes_on_hooks(group)
    return hooks


def hooked(host, clip, hooks, schedule: bool = False):
    given = {"apply_to_conds": True, "schedule_clip": schedule, "hooks": hooks}
    return node(host, "SetClipHooks", clip=clip, **given)


@pytest.mark.parametrize("kind", ["bridge", "llm"])
@pytest.mark.parametrize("schedule", [False, True])
def test_hooks_with_a_lora_for_the_checkpoints_encoder_are_told(clips, host, told, kind, schedule):
    clip, own = clips[kind], host_encoder("sdxl")
    lora = lora_for(own, FOR_A_MODEL)
    changed = hooked(host, clip, hooks_of(lora, (1.0, 0.0), (0.0, 0.5)), schedule)
    for patched in (changed, changed.clone()):
        (sentence,) = told(patched)
        assert sentence.startswith("2 tensors of a LoRA that Set CLIP Hooks is given")
        assert "such as 'lora_te1_" in sentence and "\n" not in sentence
    assert not told(clip) and not told(hooked(host, clip, hooks_of(lora, strength=0.0)))
    for_model = {name: tensor for name, tensor in lora.items() if name.startswith(FOR_A_MODEL)}
    assert not told(hooked(host, clip, hooks_of(for_model)))
    theirs = entries_of(hooked(host, own, hooks_of(lora)), "a red cat")[0][0]
    assert not torch.equal(theirs, entries_of(own, "a red cat")[0][0])  # where it does belong
    own.patcher.detach()


def test_hooks_on_the_encoder_are_its_own(bench, host):
    own = host_encoder("sdxl")
    lora = lora_for(own)
    steady = hooked(host, own, hooks_of(lora))
    expected = entries_of(steady, "a red cat")
    assert not torch.equal(expected[0][0], entries_of(own, "a red cat")[0][0])
    bridge, adds = bench.bridge("sdxl")[1], bench.bridge("sdxl", add=True)[1]
    check_same(entries_of(bench.clip(bridge, encoder=steady, strength=0.0), "a red cat"), expected)
    changing = hooked(host, own, hooks_of(lora, (1.0, 0.0), (0.0, 0.5)), schedule=True)
    assert len(entries_of(changing, "a red cat")) == 2
    for loaded, strength in ((bridge, 0.0), (bridge, 0.5), (adds, 1.0)):
        with pytest.raises(bench.error, match="encoder here has hooks with a schedule of 2 parts"):
            bench.clip(loaded, encoder=changing, strength=strength)
    bench.clip(bridge, encoder=changing)  # of which nothing is written
    llm = hooked(host, bench.llm(), hooks_of(lora, (1.0, 0.0), (0.0, 0.5)), schedule=True)
    with pytest.raises(bench.error, match="LLM Llama here has hooks with a schedule of 2 parts"):
        bench.clip(bridge, llm)
    own.patcher.detach()


@pytest.mark.parametrize("pair", ["bridge sdxl", "llm sdxl", "bridge llm", "llm bridge"])
def test_a_merge_of_two_kinds_is_told(clips, told, pair):
    from comfy_extras.nodes_model_merging import CLIPMergeSimple

    one, other = (clips[name] if name in clips else host_encoder(name) for name in pair.split())
    merged = CLIPMergeSimple().merge(one, other, 0.3)[0]
    (sentence,) = told(merged)
    assert MERGE in sentence and "\n" not in sentence


def test_a_merge_of_one_kind_is_not(bench, clips, told):
    from comfy_extras.nodes_model_merging import CLIPMergeSimple

    merged = CLIPMergeSimple().merge(clips["llm"], bench.llm(), 0.3)[0]
    assert not told(merged)
