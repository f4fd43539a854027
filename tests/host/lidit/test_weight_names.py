"""Nodes that look for a U-Net's weights find a LI-DiT's, and others each once. Host's Python."""

from __future__ import annotations

import pytest
import torch
from conftest import wait_for
from model_kit import close

TIMES = 3.0
PLAIN = {"q": 1.0, "k": 1.0, "v": 1.0, "out": 1.0}
NODES = {"attn1": "UNetSelfAttentionMultiply", "attn2": "UNetCrossAttentionMultiply"}
OURS = {"attn1": "self_attn", "attn2": "cross_attn"}


@pytest.fixture(scope="module", autouse=True)
def extra_nodes(host) -> None:
    for name in ("attention_multiply", "model_merging", "lora_extract"):
        path = str(host.path / "comfy_extras" / f"nodes_{name}.py")
        assert wait_for(host.nodes.load_custom_node(path, module_parent="comfy_extras"))


def multiplied(kit, model, attention: str, **factors: float):
    return kit.stock_v3(NODES[attention], model=model, **{**PLAIN, **factors})


@pytest.mark.parametrize("part", "qkv")
@pytest.mark.parametrize("attention", NODES)
def test_queries_keys_and_values_are_multiplied(kit, model, attention, part):
    """As by a patch of what the attention is given."""
    patched, prompt = model.clone(), kit.prompt(seed=1)

    def louder(q, k, v, extra):
        given = {"q": q, "k": k, "v": v}
        given[part] = given[part] * TIMES
        return tuple(given.values())

    getattr(patched, f"set_model_{attention}_patch")(louder)
    drawn = kit.sample(multiplied(kit, model, attention, **{part: TIMES}), prompt)
    assert close(drawn, kit.sample(patched, prompt), 5e-5)
    assert not close(drawn, kit.sample(model, prompt), 3e-4)


@pytest.mark.parametrize("attention", NODES)
def test_what_an_attention_gives_is_multiplied(kit, model, attention):
    other, prompt = kit.load(), kit.prompt(seed=1)
    with torch.no_grad():
        for block in other.model.diffusion_model.blocks:
            for weight in getattr(block, OURS[attention]).proj.parameters():
                weight.mul_(TIMES)
    drawn = kit.sample(multiplied(kit, model, attention, out=TIMES), prompt)
    assert close(drawn, kit.sample(other, prompt), 1e-4)
    how = {"self_structural": 1.0, "self_temporal": 3.0, "cross_structural": 1.0}
    how |= {"cross_temporal": 3.0, f"{OURS[attention].split('_')[0]}_structural": TIMES}
    again = kit.stock_v3("UNetTemporalAttentionMultiply", model=model, **how)
    assert close(kit.sample(again, prompt), drawn)


def test_every_such_name_stands_for_a_weight(model):
    names = model.model_state_dict()
    added = names.keys() - model.model.state_dict().keys()
    kinds = {(name.split(".")[-3], name.split(".")[-2]) for name in added if "to_out" not in name}
    assert kinds == {(attention, f"to_{part}") for attention in NODES for part in "qkv"}
    config = model.model.model_config.config
    assert len(added) == 2 * 6 * config.depth
    assert all(names[name].shape[0] == config.width for name in added if "to_v" in name)


def test_merges_files_and_extracted_loras_see_each_weight_once(kit, model, host, tmp_path):
    """Also of a model whose attention is multiplied, before and after a merge."""
    own = model.model.state_dict().keys()
    changed = multiplied(kit, model, "attn2", v=TIMES, out=0.5)
    assert changed.get_key_patches().keys() == own
    assert set(changed.get_key_patches("diffusion_model.")) <= own
    whole = kit.stock("ModelMergeSimple", model1=kit.load(), model2=changed, ratio=0.0)
    prompt = kit.prompt(seed=1)
    assert close(kit.sample(whole, prompt), kit.sample(changed, prompt), 1e-4)
    none = kit.stock("ModelMergeSubtract", model1=changed, model2=model, multiplier=1.0)
    how = {"filename_prefix": "loras/extracted", "rank": 2, "lora_type": "full_diff"}
    kit.host.nodes.NODE_CLASS_MAPPINGS["LoraSave"].execute(**how, bias_diff=True, model_diff=none)
    (file,) = (host.base / "output" / "loras").glob("extracted*")
    from safetensors.torch import load_file

    known = {f"{name.rpartition('.')[0]}" for name in own}
    assert {name.rpartition(".")[0] for name in load_file(file)} <= known
