"""What is drawn with bridges, by the host's own models and samplers. Run: see conftest.py"""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from bridge_encoders import PROMPTS, REAL, WIDTHS, entries_of, host_encoder, is_known, needs
from bridge_files import Bench, node, spec_of
from bridge_models import drawn, host_model, lora_of, made_for

from lidit_core.bridge.file import write_bridge

ORDINARY, LONG_RUN = ["sdxl", "flux"], ["sd15", "pixart", "sd3", *["sd3t5", "klein"][: 2 * REAL]]
KINDS = [*ORDINARY, *(pytest.param(kind, marks=pytest.mark.long) for kind in LONG_RUN)]
LONG = ", ".join(["a red cat and two dogs on a blue background"] * 30)  # 300 tokens of CLIP


@pytest.fixture
def bench(pack, host):
    return Bench(pack, host)


def pair(clip, positive: str = PROMPTS[0], negative: str = "") -> tuple[list, list]:
    return entries_of(clip, positive), entries_of(clip, negative)


@pytest.mark.parametrize("kind", KINDS)
def test_every_model_draws_with_its_bridge(bench, host, kind):
    """Prompts of any length, in a batch, beside a negative prompt of another length."""
    own, model = host_encoder(kind), host_model(kind)
    clip = bench.clip(bench.bridge(kind)[1], model=model)
    theirs = drawn(host, model, *pair(own))
    alone = drawn(host, model, *pair(clip))
    assert alone.isfinite().all() and not torch.allclose(alone, theirs, atol=1e-3)
    for positive, negative in ((LONG, "a dog"), (PROMPTS[0], LONG), ("", LONG)):
        found = drawn(host, model, *pair(clip, positive, negative), batch=2)
        assert found.shape[0] == 2 and found.isfinite().all()
        assert not torch.allclose(found[0], found[1])


@pytest.fixture
def told(pack, monkeypatch) -> list[str]:
    """What is noted of models."""
    found: list[str] = []
    for name in ("host.bridge.model_reads", "host.bridge.model_encoder"):
        monkeypatch.setattr(pack.module(name), "note", found.append)
    return found


def predicted(host, model, positive: list, negative: list, cfg: float) -> tuple:
    """Of the first step: what guidance makes, and what it is made of, by each of the prompts."""
    seen, watched = [], model.clone()

    def see(given: dict):
        names = "denoised", "cond_denoised", "uncond_denoised"
        seen.append(tuple(given[name].clone() for name in names))
        return given["denoised"]

    watched.set_model_sampler_post_cfg_function(see)
    drawn(host, watched, positive, negative, cfg=cfg)
    return seen[0]


@pytest.mark.parametrize("kind", KINDS)
def test_guidance_is_between_what_two_prompts_of_unequal_lengths_give_alone(bench, host, kind):
    """Neither prompt sees the other's rows, and the empty one is the encoder's own."""
    model, own = host_model(kind), entries_of(host_encoder(kind), "")
    clip = bench.clip(bench.bridge(kind)[1], model=model)
    read = {text: entries_of(clip, text) for text in ("a dog", LONG, "")}
    alone = {text: predicted(host, model, read[text], own, 1.0)[1] for text in read}
    assert torch.equal(alone[""], predicted(host, model, own, own, 1.0)[1])
    for positive, negative in ((LONG, "a dog"), ("a dog", LONG), (LONG, "")):
        shapes = [read[text][0][0].shape for text in (positive, negative)]
        assert shapes[0] != shapes[1] or kind == "klein"  # which pads to 512
        whole, first, second = predicted(host, model, read[positive], read[negative], 4.0)
        assert torch.allclose(first, alone[positive], atol=1e-4)
        assert torch.allclose(second, alone[negative], atol=1e-4)
        assert not torch.allclose(first, second, atol=1e-3)
        assert torch.allclose(whole, second + 4 * (first - second), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_strength_0_and_an_untrained_one_that_adds_draw_the_encoders_picture(bench, host, kind):
    own, model = host_encoder(kind), host_model(kind)
    new = bench.bridge(kind, trained=False, add=True, name=f"{kind}-new")[1]
    clips = (
        bench.clip(bench.bridge(kind)[1], encoder=own, strength=0.0),
        bench.clip(new, encoder=own, model=model),
    )
    for prompts in ((PROMPTS[0], ""), (LONG, "a (red:1.4) dog")):
        expected = drawn(host, model, *pair(own, *prompts), batch=2)
        for clip in clips:
            assert torch.equal(drawn(host, model, *pair(clip, *prompts), batch=2), expected)


def test_300_tokens_on_sdxl_reach_the_model_whole(bench, host):
    """Each chunk reads the whole prompt: its last words move the first one's rows, and the picture.

    Of the encoder's own that chunk is the same bits, whatever comes after it.
    """
    model, own = host_model("sdxl"), host_encoder("sdxl")
    llm = bench.llm(token_budget=512)
    bridge = bench.bridge("sdxl", spec_of(llm, token_budget=512), name="long")[1]
    clip, texts = bench.clip(bridge, llm), [f"{LONG} in the {last}" for last in ("snow", "rain")]
    count = sum(token not in (49406, 49407) for token, _ in sum(own.tokenize(texts[0])["l"], []))
    assert count >= 300
    template = bridge.bridge.config.llms[0].template
    for text in texts:
        (row,) = llm.cond_stage_model.prompts(template, text).encode_rows([text])
        assert row.used == row.total > 300
    made, theirs = ([entries_of(each, text)[0] for text in texts] for each in (clip, own))
    assert made[0][0].shape == theirs[0][0].shape == (1, 77 * -(-count // 75), WIDTHS["sdxl"])
    assert torch.equal(theirs[0][0][:, :77], theirs[1][0][:, :77])
    assert not torch.allclose(made[0][0][:, :77], made[1][0][:, :77], atol=1e-4)
    negative = entries_of(clip, "")
    for cut in (None, 77):  # the whole, and the first chunk alone beside the same pooled vector
        rows = [[[sequence[:, :cut], made[0][1]]] for sequence, _ in made]
        pictures = [drawn(host, model, each, negative) for each in rows]
        assert not torch.allclose(*pictures, atol=1e-5)


def test_areas_masks_hooks_and_ranges_are_drawn(bench, host):
    """The host's own nodes on a bridge's conditioning change the picture where they say."""
    import comfy.hooks

    model = host_model("sd15")
    clip = bench.clip(bench.bridge("sd15")[1])
    plain, negative = pair(clip)
    other = entries_of(clip, PROMPTS[1])
    area = {"width": 32, "height": 64, "x": 0, "y": 0, "strength": 1.0}
    (left,) = [node(host, "ConditioningSetArea", conditioning=other, **area)]
    both = node(host, "ConditioningCombine", conditioning_1=plain, conditioning_2=left)
    before, found = (drawn(host, model, c, negative) for c in (plain, both))
    apart = (before - found).abs().amax((0, 1))
    assert found.isfinite().all() and apart[:, :4].mean() > apart[:, 4:].mean()
    mask = torch.zeros(1, 64, 64)
    mask[..., :32] = 1
    given = {"mask": mask, "strength": 1.0, "set_cond_area": "default"}
    masked = node(host, "ConditioningSetMask", conditioning=other, **given)
    whole = drawn(host, model, masked, negative)
    assert whole.isfinite().all() and not torch.allclose(whole, drawn(host, model, other, negative))
    late = node(host, "ConditioningSetTimestepRange", conditioning=other, start=0.5, end=1.0)
    early = node(host, "ConditioningSetTimestepRange", conditioning=plain, start=0.0, end=0.5)
    ranges = node(host, "ConditioningCombine", conditioning_1=early, conditioning_2=late)
    assert drawn(host, model, ranges, negative).isfinite().all()
    hooks = comfy.hooks.create_hook_lora(lora=lora_of(model), strength_model=1.0, strength_clip=0.0)
    to = {"apply_to_conds": True, "schedule_clip": False, "hooks": hooks}
    hooked = entries_of(node(host, "SetClipHooks", clip=clip, **to), PROMPTS[0])
    assert torch.equal(hooked[0][0], plain[0][0])
    assert not torch.allclose(drawn(host, model, hooked, negative), before, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_it_is_not_for_is_told_on_its_node(bench, kind):
    """Both what the bridge was trained for and what the model reads are named."""
    model = host_model(kind)
    reads = bench.pack.module("host.bridge.model_reads").reads_of(model)
    for other in filter(is_known, (*ORDINARY, *LONG_RUN)):
        bridge = bench.bridge(other)[1]
        spec = bridge.bridge.config.teacher
        if spec.width == reads.rows and reads.pooled in (0, spec.pooled):
            bench.clip(bridge, model=model)
            assert kind == other or reads.rows == spec.width
            continue
        assert kind != other
        with pytest.raises(bench.error, match="connect the model that the bridge was") as told:
            bench.clip(bridge, model=model)
        assert spec.name in str(told.value) and reads.name in str(told.value)
        assert "\n" not in str(told.value)


@pytest.mark.parametrize("kind, other", [("sdxl", "sd15"), ("sd15", "sdxl")])
def test_a_model_that_is_not_connected_is_compared_by_its_sampler(bench, host, kind, other, told):
    """Whatever the host's nodes do to the conditioning; copies and files of it are plain."""
    clip, model = bench.clip(bench.bridge(kind)[1]), host_model(other)
    positive, negative = pair(clip)
    area = {"width": 32, "height": 64, "x": 0, "y": 0, "strength": 1.0}
    placed = node(host, "ConditioningSetArea", conditioning=positive, **area)
    late = node(host, "ConditioningSetTimestepRange", conditioning=placed, start=0.5, end=1.0)
    both = node(host, "ConditioningCombine", conditioning_1=negative, conditioning_2=late)
    for prompts in ((positive, negative), (negative, positive), (both, negative)):
        with pytest.raises(bench.error, match="the model that the bridge was trained for") as said:
            drawn(host, model, *prompts)
        sentence, name = str(said.value), type(model.model.model_config).__name__
        assert f"the model here, {name}, reads" in sentence and "\n" not in sentence
    right = host_model(kind)
    drawn(host, right, both, negative)
    assert told == []
    copied = pickle.loads(pickle.dumps(copy.deepcopy(positive)))
    assert type(copied[0][1]["model_conds"]) is OrderedDict
    assert torch.equal(drawn(host, right, copied, negative), drawn(host, right, positive, negative))
    files = bench.pack.module("host.encoded_prompts")
    saved = files.save(positive, f"conditioning/{kind}")
    assert "model_conds" not in files.load(f"conditioning/{saved.name} [output]")[0][1]


def test_a_pooled_vector_that_a_model_does_without_is_noted_by_its_sampler(bench, host, told):
    clip = bench.clip(bench.bridge("pixart")[1])
    drawn(host, host_model("flux"), *pair(clip))
    assert "no pooled vector, and the model here, Flux, reads one of" in told[0]


def test_another_encoder_of_that_width_is_noted_by_the_sampler(bench, host, told):
    clip = bench.clip(bench.bridge("sd15")[1])
    drawn(host, made_for("PixArtSigma", WIDTHS["sd15"]), *pair(clip))
    assert "comes with another text encoder of the same width (PixArtT5XXL)" in told[0]
    del told[:]
    drawn(host, host_model("sd15"), *pair(clip))
    assert told == []


def test_a_model_that_is_not_known_is_noted(bench, monkeypatch):
    told: list[str] = []
    module = bench.pack.module("host.bridge.model_reads")
    monkeypatch.setattr(module, "note", told.append)
    monkeypatch.setattr(module, "ON_ROWS", ())
    bench.clip(bench.bridge("flux")[1], model=host_model("flux"))
    assert told == ["what Flux reads of text is not known here, and not compared with the bridge"]


def test_a_model_that_reads_padding_which_was_not_learnt_is_noted(bench, monkeypatch):
    """Files of before took Klein's padding for masked, and were never taught it."""
    needs("klein")
    told: list[str] = []
    monkeypatch.setattr(bench.pack.module("host.bridge.model_reads"), "note", told.append)
    model = host_model("klein")
    bench.clip(bench.bridge("klein")[1], model=model)
    assert told == []
    loaded, _ = bench.bridge("klein", name="before")
    config = loaded.bridge.config
    changed = replace(config, teacher=replace(config.teacher, masked=True))
    loaded.bridge.config = changed
    write_bridge(bench.folder / "before.safetensors", loaded)
    bench.clip(bench.load("before.safetensors"), model=model)
    (sentence,) = told
    assert sentence.startswith("the model here, Flux2, reads the padding of Flux2TEModel_'s rows")
    assert "train the bridge from that recording" in sentence


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "pixart"])
def test_a_model_of_another_encoder_of_that_width_is_noted(bench, monkeypatch, kind):
    """Its encoder's tokens are others, or its class where the host has no tokenizer without it."""
    told: list[str] = []
    module = bench.pack.module("host.bridge.model_encoder")
    monkeypatch.setattr(module, "note", told.append)
    bridge = bench.bridge(kind)[1]
    spec = bridge.bridge.config.teacher
    others = {"PixArtSigma": "PixArtT5XXL", "WAN21_T2V": "WanTEModel"}
    for model, encoder in others.items():
        del told[:]
        bench.clip(bridge, model=made_for(model, spec.width))
        if (kind, model) == ("pixart", "PixArtSigma"):
            assert told == []  # the class has another name than the one recorded, and T5's tokens
            assert encoder != spec.name
            continue
        (sentence,) = told
        for part in (f"was trained for {spec.name}", model, encoder, "load a bridge for this one"):
            assert part in sentence
    del told[:]
    if kind != "pixart":
        bench.clip(bridge, model=host_model(kind))
    assert told == []
