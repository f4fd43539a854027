"""The refiner nodes, and our refiner against HunyuanVideo's. Host's Python: pytest tests/host"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from model_kit import close, fuse, save_small, small_config

FOUR = ("alpha", "b", "c", "d")


def refine(kit, conditioning, refiner="by LLM name", **changes):
    how = {"attention": "as trained", "gating": "as trained", "strength": 1.0, **changes}
    (out,) = kit.pack.run(
        "LiDiTLinguisticTokenRefiner", conditioning=conditioning, refiner=refiner, **how
    )
    return out


def test_ours_is_hunyuan_videos_token_refiner_with_the_same_weights(pack, host):
    """Specification, section 5: entry norm and QK norm off, no padding."""
    from comfy import ops
    from comfy.ldm.hunyuan_video.model import TokenRefiner

    config = pack.module("lidit_core.model.config")
    made = config.RefinerConfig(entry_norm=False, qk_norm=False)
    refiners = pack.module("lidit_core.model.refiners")
    ours = refiners.LinguisticTokenRefiner(config.LLMSpec("alpha", 48), 64, 4, made).eval()
    theirs = TokenRefiner(48, 64, 4, 2, operations=ops.disable_weight_init).eval()
    torch.manual_seed(0)
    theirs.load_state_dict({k: torch.randn(v.shape) * 0.1 for k, v in theirs.state_dict().items()})
    ours.load_state_dict({ours_of(k): v for k, v in theirs.state_dict().items()})
    states = pack.module("lidit_core.text.states")
    hidden = torch.randn(2, 11, 48)
    t = torch.tensor([37.0, 912.0])
    read = states.LLMStates(hidden, torch.full((2, 11), states.PROMPT, dtype=torch.int32))
    attention = pack.module("lidit_core.model.attention").scaled_dot_product
    with torch.no_grad():
        branch = ours(read, t, torch.float32, attention)
        assert close(branch.tokens, theirs(hidden, t, None))


def ours_of(key: str) -> str:
    """A key of HunyuanVideo's refiner as ours is named."""
    renamed = {
        "input_embedder": "entry",
        "individual_token_refiner.blocks": "blocks",
        "adaLN_modulation.1": "gates.linear",
    }
    for theirs, ours in renamed.items():
        key = key.replace(theirs, ours)
    return key


def test_the_node_changes_nothing_as_it_is_and_each_switch_does(kit, model):
    prompt = kit.prompt(length=12, seed=1)
    plain = kit.sample(model, prompt)
    assert torch.equal(kit.sample(model, refine(kit, prompt)), plain)
    assert torch.equal(kit.sample(model, refine(kit, prompt, "1")), plain)
    same = refine(kit, prompt, attention="full", gating="on")
    assert torch.equal(kit.sample(model, same), plain)
    switched = ({"attention": "causal"}, {"gating": "off"}, {"strength": 0.0}, {"strength": 2.0})
    pictures = [kit.sample(model, refine(kit, prompt, **switch)) for switch in switched]
    for i, picture in enumerate(pictures):
        assert not close(picture, plain, 1e-3), switched[i]
        assert not any(close(picture, other, 1e-3) for other in pictures[:i]), switched[i]


def test_without_strength_the_refiners_blocks_are_not_there(kit, model):
    """Strength 0 equals a model whose refiner blocks were never trained (zero gates)."""
    config, weights = kit.core.read_lidit(kit.checkpoint)
    closed = {
        k: torch.zeros_like(v) if ".blocks." in k and ".gates." in k and "linguistic" in k else v
        for k, v in weights.items()
    }
    prompt, negative = kit.prompt(seed=1), kit.prompt(seed=2)
    expected = kit.sample(kit.model.build_model(config, closed), prompt, negative)
    off = [refine(kit, c, strength=0.0) for c in (prompt, negative)]
    assert close(kit.sample(model, *off), expected)


def test_weights_of_branches(kit, model):
    one, two = kit.prompt(seed=1), kit.prompt("beta", length=11, seed=2)
    duo = kit.sample(model, fuse(kit, one, two))
    assert torch.equal(kit.sample(model, fuse(kit, one, two, weights=(1.0, 1.0))), duo)
    removed = kit.sample(model, fuse(kit, one, two, weights=(1.0, 0.0)))
    assert close(removed, kit.sample(model, one))
    heavier = kit.sample(model, fuse(kit, one, two, weights=(1.0, 3.0)))
    assert not close(heavier, duo, 1e-3) and not close(heavier, removed, 1e-3)
    plain = kit.sample(model, fuse(kit, one, two, fusion="concatenation"))
    assert not close(plain, duo, 1e-3)
    chosen = fuse(kit, one, two, fusion="collaborative refiner")
    assert torch.equal(kit.sample(model, chosen), duo)


def test_a_weight_of_the_only_llm_is_idle_and_told(kit, model, caplog):
    one, two = kit.prompt(seed=1), kit.prompt("beta", length=11, seed=2)
    alone = kit.sample(model, one)
    assert torch.equal(kit.sample(model, fuse(kit, one, weights=(0.3,))), alone)
    assert "the weight 0.3 of alpha has no effect" in caplog.text
    caplog.clear()
    fuse(kit, one, two, weights=(2.0, 0.0))
    assert "the weight 2 of alpha has no effect" in caplog.text
    caplog.clear()
    fuse(kit, one, two, weights=(2.0, 0.5))
    fuse(kit, one)
    assert "no effect" not in caplog.text


@pytest.mark.parametrize(
    ("weights", "fusion", "told"),
    [
        ((2.0, 2.0), "as trained", "the weights are all 2, which is the same as all 1"),
        ((0.5, 0.5), "concatenation", "the weights are all 0.5, which is the same as all 1"),
        ((0.5, 0.2), "as trained", "the largest weight is 0.5, which also lowers"),
        ((1.0, 0.2), "as trained", ""),
        ((1.0, 1.0), "as trained", ""),
    ],
)
def test_weights_that_do_not_tell_the_llms_apart_are_told(
    kit, model, caplog, weights, fusion, told
):
    given = kit.prompt("alpha", 9), kit.prompt("beta", 7)
    fused = fuse(kit, *given, weights=weights, fusion=fusion)
    assert ("weight" in caplog.text) == bool(told) and told in caplog.text
    if "same as all 1" in told:
        plain = fuse(kit, *given, fusion=fusion)
        assert close(kit.sample(model, fused), kit.sample(model, plain), 1e-4)


def test_switches_set_before_the_fusion_are_kept(kit, model):
    one, two = kit.prompt(seed=1), kit.prompt("beta", seed=2)
    causal = fuse(kit, refine(kit, one, attention="causal"), two)
    assert not close(kit.sample(model, causal), kit.sample(model, fuse(kit, one, two)), 1e-3)


def test_the_refiner_nodes_map_over_all_entries_and_the_firsts_area_wins(kit, pack):
    area = {"width": 16, "height": 16, "x": 0, "y": 0, "strength": 0.5}
    near = kit.stock("ConditioningSetArea", conditioning=kit.prompt(seed=1), **area)
    both = kit.stock("ConditioningCombine", conditioning_1=near, conditioning_2=kit.prompt(seed=3))
    elsewhere = kit.stock(
        "ConditioningSetArea", conditioning=kit.prompt("beta", seed=2), **{**area, "x": 8}
    )
    out = fuse(kit, refine(kit, both, attention="causal"), elsewhere)
    assert len(out) == 2
    assert out[0][1]["area"] == near[0][1]["area"] and "area" not in out[1][1]
    for c0, values in out:
        text = kit.cond.text_of(c0, values)
        assert [b.llm for b in text.branches] == ["alpha", "beta"]
        assert text.branches[0].options.full_attention is False
    three = [*both, *both[:1]]
    with pytest.raises(Exception, match="conditioning 2 has 2 entries and the first has 3"):
        fuse(kit, three, [*elsewhere, *elsewhere])


def test_one_branch_takes_one_llm(kit, model):
    with pytest.raises(Exception, match="two conditionings are for the model's branch alpha"):
        kit.sample(model, fuse(kit, kit.prompt(seed=1), kit.prompt(seed=2)))
    duo = fuse(kit, kit.prompt(), kit.prompt("beta"))
    with pytest.raises(Exception, match="already fuses alpha, beta"):
        refine(kit, duo)
    with pytest.raises(Exception, match="branch 4 was asked for, and this model has 2"):
        kit.sample(model, refine(kit, kit.prompt(), "4"))


def test_conditioning_survives_saving_and_loading(kit, model, tmp_path):
    duo = fuse(kit, refine(kit, kit.prompt(seed=1), strength=0.5), kit.prompt("beta", seed=2))
    torch.save(duo, tmp_path / "conditioning.pt")
    again = torch.load(tmp_path / "conditioning.pt", weights_only=True)
    assert torch.equal(kit.sample(model, again), kit.sample(model, duo))


def test_another_llms_refiner_is_exchanged_in_the_loaded_model(kit, model, pack, host, tmp_path):
    donor = save_small(tmp_path / "donor.safetensors", seed=8)
    files = pack.module("lidit_core.checkpoints.refiner")
    folder = host.base / "models" / "diffusion_models"
    files.save_refiner(donor, "beta", folder / "beta-refiner.safetensors")
    prompt = kit.prompt("beta", seed=2)
    before = kit.sample(model, prompt)
    (changed,) = pack.run(
        "LiDiTRefinerLoader", model=model, refiner_name="beta-refiner.safetensors"
    )
    after = kit.sample(changed, prompt)
    assert not close(after, before, 1e-3)
    assert torch.equal(kit.sample(model, prompt), before)
    files.save_refiner(kit.checkpoint, "beta", folder / "own.safetensors")
    (restored,) = pack.run("LiDiTRefinerLoader", model=changed, refiner_name="own.safetensors")
    assert torch.equal(kit.sample(restored, prompt), before)
    alone = kit.prompt(seed=1)
    assert torch.equal(kit.sample(changed, alone), kit.sample(model, alone))
    with pytest.raises(Exception, match="is no refiner file"):
        kit.model.with_refiner(model, str(kit.checkpoint))


def test_more_of_a_prompt_than_the_model_was_trained_with_is_told(kit, model, caplog):
    most = kit.model.config_of_model(model).llms[0].token_budget
    for used, told in ((most, False), (most + 1, True)):
        caplog.clear()
        read = kit.text.BranchText("alpha", kit.read(seed=1), used=used)
        kit.sample(model, [kit.cond.entry_of(kit.text.PromptText((read,)))])
        assert told == (f"trained with at most {most}" in caplog.text)


def test_a_fusion_of_fusions_keeps_what_the_inner_one_chose(kit, model):
    one, two = kit.prompt(seed=1), kit.prompt("beta", length=11, seed=2)
    plain = kit.sample(model, fuse(kit, one, two, fusion="concatenation"))
    inner = fuse(kit, one, fusion="concatenation")
    assert torch.equal(kit.sample(model, fuse(kit, inner, two)), plain)
    assert torch.equal(kit.sample(model, fuse(kit, two, inner)), plain)
    chosen = fuse(kit, inner, two, fusion="collaborative refiner")
    assert torch.equal(kit.sample(model, chosen), kit.sample(model, fuse(kit, one, two)))


def test_three_and_four_llms_are_fused_each_with_its_weight(kit, pack, host, tmp_path):
    llms = tuple(replace(small_config().llms[0], name=name) for name in FOUR)
    model = kit.model.load_model(save_small(tmp_path / "four.safetensors", llms=llms))
    reads = [kit.text.BranchText(name, kit.read(length=6 + n, seed=n)) for n, name in
             enumerate(FOUR)]  # fmt: skip
    prompts = [[kit.cond.entry_of(kit.text.PromptText((read,)))] for read in reads]
    pictures = [kit.sample(model, fuse(kit, *prompts[:n])) for n in (2, 3, 4)]
    for n, left_out in ((3, (1, 1, 0)), (4, (1, 1, 1, 0))):
        weighted = kit.sample(model, fuse(kit, *prompts[:n], weights=left_out))
        assert not close(pictures[n - 2], pictures[n - 3], 1e-3)
        assert close(weighted, pictures[n - 3])


def test_a_step_begins_outside_of_every_block(kit, model):
    """What asks for the block sees none while the refiners run, at the second step as well."""
    watched, seen = model.clone(), []

    def override(function, *args, transformer_options=None, **kwargs):
        seen.append(transformer_options.get("block_index"))
        return function(*args, transformer_options=transformer_options, **kwargs)

    watched.model_options["transformer_options"]["optimized_attention_override"] = override
    kit.sample(watched, kit.prompt(seed=1), steps=2)
    step = seen[: len(seen) // 2]
    assert None in step and 0 in step and seen == step * 2


def exchanged(pack, model, name, **chosen):
    return pack.run("LiDiTRefinerLoader", model=model, refiner_name=name, **chosen)[0]


@pytest.fixture
def gamma(pack, host, tmp_path) -> str:
    """The refiner of an LLM that the model does not know, of another width."""
    config = small_config()
    llms = (config.llms[0], replace(config.llms[1], name="gamma", width=56))
    donor = save_small(tmp_path / "donor.safetensors", seed=8, llms=llms)
    folder = host.base / "models" / "diffusion_models"
    files = pack.module("lidit_core.checkpoints.refiner")
    files.save_refiner(donor, "gamma", folder / "gamma-refiner.safetensors")
    return "gamma-refiner.safetensors"


def gamma_prompt(kit, length=9):
    hidden = torch.randn(1, length, 56, generator=torch.Generator().manual_seed(6))
    states = kit.states.LLMStates(hidden, kit.read(length=length).roles)
    return [kit.cond.entry_of(kit.text.PromptText((kit.text.BranchText("gamma", states),)))]


def test_another_llm_of_another_width_takes_the_branch_that_is_chosen(kit, model, pack, gamma):
    with pytest.raises(Exception, match="say which branch it takes the place of: 1 to 2"):
        exchanged(pack, model, gamma)
    with pytest.raises(Exception, match="branch 3 was asked for, and this model has 2"):
        exchanged(pack, model, gamma, branch="3")
    changed = exchanged(pack, model, gamma, branch="2")
    llms = kit.model.config_of_model(changed).llms
    assert [(llm.name, llm.width) for llm in llms] == [("alpha", 24), ("gamma", 56)]
    first, drawn = kit.prompt(seed=1), kit.sample(changed, gamma_prompt(kit))
    assert torch.equal(kit.sample(changed, first), kit.sample(model, first))
    assert not close(drawn, kit.sample(changed, first), 1e-3)
    make, arguments = changed.cached_patcher_init
    assert torch.equal(kit.sample(make(*arguments), gamma_prompt(kit)), drawn)


def test_exchanging_carries_over_what_nodes_have_set(kit, model, pack, gamma):
    from comfy.patcher_extension import CallbacksMP, WrappersMP

    set_up, calls = model.clone(), []

    def watch(executor, *args, **kwargs):
        calls.append(1)
        return executor(*args, **kwargs)

    set_up.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "watch", watch)
    set_up.add_callback(CallbacksMP.ON_CLEANUP, lambda *_: calls.append("cleaned"))
    set_up.set_attachments("mine", "kept")
    weights = set_up.model.state_dict()
    parts = ("text_side.linguistic.0", "text_side.linguistic.1", "blocks.0.")
    keys = {p: [k for k in weights if f"diffusion_model.{p}" in k and k.endswith("weight")]
            for p in parts}  # fmt: skip
    assert all(keys.values())
    set_up.add_patches({k: (torch.ones_like(weights[k]),) for part in keys.values() for k in part})
    changed = exchanged(pack, set_up.clone(), gamma, branch="2").clone()
    kept = {*keys[parts[0]], *keys[parts[2]]}
    assert set(changed.patches) == kept and changed.get_attachment("mine") == "kept"
    first = kit.prompt(seed=1)
    drawn = kit.sample(changed, first)
    assert calls.count(1) == 4 and "cleaned" in calls
    assert torch.equal(kit.sample(set_up, first), drawn)
    assert not close(drawn, kit.sample(model, first), 1e-3)


def test_exchanging_declines_what_is_tied_to_the_modules_as_they_are(model, pack, gamma):
    from comfy.model_patcher import PatcherInjection
    from comfy.patcher_extension import WrappersMP

    compiled, bypassed = model.clone(), model.clone()
    compiled.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "torch.compile", lambda e, *a: e(*a))
    nothing = PatcherInjection(inject=lambda patcher: None, eject=lambda patcher: None)
    bypassed.set_injections("bypass_lora", [nothing])
    for tied in (compiled, bypassed):
        with pytest.raises(Exception, match="put the refiner loader directly after the model load"):
            exchanged(pack, tied, gamma, branch="2")


def test_a_prompt_read_in_another_way_than_the_model_was_trained_on_is_told(kit, model, caplog):
    config = kit.model.config_of_model(model)
    ways = {-3: False, -1: True}
    for block, told in ways.items():
        caplog.clear()
        reading = kit.keys.reading_of(block, config.llms[0].template)
        read = kit.text.BranchText("alpha", kit.read(seed=1), reading=reading)
        kit.sample(model, [kit.cond.entry_of(kit.text.PromptText((read,)))])
        assert told == ("another template or layer" in caplog.text)
