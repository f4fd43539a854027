"""LoRAs: trained beside a frozen model, written, merged.

Run: pytest tests/train/tasks/test_lora.py
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from tiny_lidit import random_lidit, random_noise, random_texts
from torch.utils.checkpoint import checkpoint

from lidit_core.checkpoints.lidit import save_lidit
from lidit_core.checkpoints.lora import (
    LONGEST,
    LORA_KEY,
    PREFIX,
    load_with_loras,
    merge_lora,
    read_lora,
)
from lidit_core.errors import LiDiTError
from lidit_core.io.tensors import read_safetensors, write_safetensors
from lidit_core.model.dit import run_block
from lidit_train.recipe import Lora
from lidit_train.tasks.lidit.lora import add_lora, linear_layers, lora_layers, save_lora

LORA = Lora(rank=3, alpha=6.0)


def call(model, **changes):
    return model(random_noise(2, 4, 6), torch.tensor([200.0, 900.0]), random_texts(2, 5, 7),
                 **changes)  # fmt: skip


def checkpointed(index, block, *inputs):
    return checkpoint(run_block, index, block, *inputs, use_reentrant=False)


def trained(model, lora: Lora = LORA, steps: int = 2, **changes):
    """An adapter after some steps on a loss that every layer can lower."""
    torch.manual_seed(0)
    adapter = add_lora(model, lora)
    optimiser = torch.optim.AdamW([p for p in adapter.parameters()], lr=1e-2)
    for _ in range(steps):
        optimiser.zero_grad()
        call(model, **changes).square().mean().backward()
        optimiser.step()
    return adapter


@torch.no_grad()
def test_a_fresh_lora_changes_no_bit_and_no_name():
    model = random_lidit()
    before, names = call(model), model.state_dict().keys()
    add_lora(model, LORA)
    assert torch.equal(call(model), before)
    assert model.state_dict().keys() == names


def test_a_step_changes_only_the_lora():
    model = random_lidit()
    before = copy.deepcopy(model.state_dict())
    output = call(model).detach()
    adapter = trained(model)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    unmoved = [name for name, pair in adapter.items() if not pair.B.any()]
    assert unmoved == []
    assert not torch.allclose(call(model), output)
    adapter.remove()
    assert torch.equal(call(model), output)


def test_only_the_named_parts_are_taken():
    model = random_lidit(depth=12)
    blocks, one = linear_layers(model, ("blocks",)), linear_layers(model, ("blocks.1",))
    assert len(blocks) == 12 * len(one) and all(n.startswith("blocks.1.") for n in one)
    both = linear_layers(model, ("blocks", "text_side"))
    assert set(both) - set(blocks) == set(linear_layers(model, ("text_side",)))
    assert not set(both) & {"pooled_text", "t_embedder.in_layer", "final_layer.linear"}
    with pytest.raises(LiDiTError, match="changes 'blok'.*expected parts of text_side, t_embedder"):
        add_lora(model, replace(LORA, layers=("blocks", "blok")))


def test_gradients_are_those_of_a_model_whose_activations_are_computed_again():
    plain, again = trained(random_lidit()), trained(random_lidit(), run_block=checkpointed)
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value)


@torch.no_grad()
def test_a_deep_copy_has_pairs_of_its_own():
    model = random_lidit()
    both = torch.nn.ModuleDict({"model": model, "lora": trained(model, steps=0)})
    copied = copy.deepcopy(both)
    before = call(model)
    for pair in copied["lora"].values():
        pair.B.fill_(0.1)
    assert torch.equal(call(model), before)
    assert not torch.allclose(call(copied["model"]), before)


def test_compiled_blocks_have_it_too():
    model = random_lidit()
    trained(model)
    output = call(model)
    for block in model.blocks:
        block.compile(backend="eager", fullgraph=True)
    torch.testing.assert_close(call(model), output)


@torch.no_grad()
def test_low_precision_layers_take_float32_pairs():
    model = random_lidit().double()
    adapter = add_lora(model, LORA)
    assert {p.dtype for p in adapter.parameters()} == {torch.float32}
    assert call_in(model, torch.float64).dtype == torch.float64


def call_in(model, dtype):
    return model(random_noise(1, 4, 4).to(dtype), torch.tensor([500.0]), random_texts())


@pytest.mark.parametrize("strength", [1.0, 0.25, -1.0])
def test_the_file_merged_is_the_model_that_was_trained(tmp_path, strength):
    model = random_lidit()
    config = model.config
    save_lidit(model, config, tmp_path / "base.safetensors")
    adapter = trained(model)
    save_lora(adapter, config, tmp_path / "lora.safetensors", base="base")
    for pair in adapter.values():
        pair.scale *= strength
    merged = load_with_loras(tmp_path / "base.safetensors", [(tmp_path / "lora.safetensors",
                                                              strength)])  # fmt: skip
    a, b = call(merged), call(model)
    assert (a - b).abs().max() <= 1e-5 * b.abs().max()


def test_the_file_says_what_it_is_and_takes_averaged_weights(tmp_path):
    model = random_lidit()
    adapter = trained(model, replace(LORA, layers=("blocks.0.mlp",)))
    average = {k: torch.full_like(v, 0.5) for k, v in adapter.state_dict().items()}
    save_lora(adapter, model.config, tmp_path / "lora.safetensors", "stickers", average)
    with safe_open(tmp_path / "lora.safetensors", "pt") as file:
        about = json.loads(file.metadata()[LORA_KEY])
        assert set(file.keys()) == {
            f"{PREFIX}blocks.0.mlp.{i}{end}"
            for i in (0, 2)
            for end in (".lora_A.weight", ".lora_B.weight", ".alpha")
        }
    assert about["base"] == "stickers" and (about["rank"], about["alpha"]) == (3, 6.0)
    assert about["prediction"] == model.config.prediction and about["llms"] == ["llm 0", "llm 1"]
    change = dict(read_lora(tmp_path / "lora.safetensors").changes())["blocks.0.mlp.0.weight"]
    assert torch.equal(change, torch.full((128, 32), 6.0 / 3 * 3 * 0.25))
    assert all((a == 0.5).all() for a, _ in lora_layers(adapter, average).values())


def test_two_loras_add_up(tmp_path):
    model = random_lidit()
    weights = model.state_dict()
    save_lora(trained(model), model.config, tmp_path / "a.safetensors")
    once = merge_lora(model.config, weights, tmp_path / "a.safetensors", 0.5)
    twice = merge_lora(model.config, once, tmp_path / "a.safetensors", 0.5)
    whole = merge_lora(model.config, weights, tmp_path / "a.safetensors")
    for key in weights:
        torch.testing.assert_close(twice[key], whole[key])
    assert not torch.equal(whole["blocks.0.mlp.0.weight"], weights["blocks.0.mlp.0.weight"])


def test_one_that_the_host_trained_is_merged_whole(tmp_path):
    """Its names, and its changes of biases, norms and convolutions, as SaveLoRA writes them."""
    model = random_lidit()
    a, b = torch.randn(2, 32 * 9), torch.randn(32, 2)
    gain, bias = torch.randn(8), torch.randn(32)
    tensors = {
        "position.conv1.lora_down.weight": a,
        "position.conv1.lora_up.weight": b,
        "position.conv1.alpha": torch.tensor(4.0),
        "blocks.0.self_attn.norm.query_norm.diff": gain,
        "position.conv1.diff_b": bias,
    }
    write_safetensors(tmp_path / "a.safetensors", {PREFIX + k: v for k, v in tensors.items()}, {})
    weights = model.state_dict()
    merged = merge_lora(model.config, weights, tmp_path / "a.safetensors")
    changed = {
        "position.conv1.weight": (2.0 * b @ a).view(32, 32, 3, 3),
        "position.conv1.bias": bias,
        "blocks.0.self_attn.norm.query_norm.weight": gain,
    }
    for key in weights:
        torch.testing.assert_close(merged[key], weights[key] + changed.get(key, 0.0))


def test_a_file_that_does_not_fit_is_one_sentence(tmp_path):
    model = random_lidit()
    config, weights, path = model.config, model.state_dict(), tmp_path / "a.safetensors"
    save_lora(trained(model), config, path, base="stickers")
    small, large = random_lidit(depth=1), random_lidit(width=64)
    with pytest.raises(LiDiTError, match=r"a.safetensors changes \d+ weights that .*, blocks.1."):
        merge_lora(small.config, small.state_dict(), path)
    with pytest.raises(LiDiTError, match=r"as \(64, 32\).*as \(128, 64\); .*trained on stickers"):
        merge_lora(large.config, large.state_dict(), path)
    with pytest.raises(LiDiTError, match="trained to predict flow and this LI-DiT predicts eps"):
        merge_lora(replace(config, prediction="eps"), weights, path)
    save_lidit(model, config, path)
    with pytest.raises(LiDiTError, match="no LoRA of a LI-DiT, for it holds"):
        merge_lora(config, weights, path)


PAIR = f"{PREFIX}blocks.0.mlp.0.lora_"


@pytest.mark.parametrize("tensors, about, told", [
    ({f"{PAIR}A.weight": (3, 32)}, "{}", r"has A \(3, 32\) and B \(\) for blocks.0.mlp.0"),
    ({f"{PAIR}A.weight": (3, 32), f"{PAIR}B.weight": (128, 2)}, "{}", r"B \(128, 2\)"),
    ({f"{PAIR}A.weight": (3,), f"{PAIR}B.weight": (128, 3)}, "{}", r"A \(3,\)"),
    ({f"{PREFIX}blocks.0.mlp.0.diff": ()}, "{}", r"as \(\) and this"),
    ({}, "[]", r"is \[\] and no JSON object"),
    ({}, "{", "no JSON"),
])  # fmt: skip
def test_a_damaged_file_is_one_sentence(tmp_path, tensors, about, told):
    model, path = random_lidit(), tmp_path / "a.safetensors"
    write_safetensors(
        path, {k: torch.zeros(shape) for k, shape in tensors.items()}, {LORA_KEY: about}
    )
    with pytest.raises(LiDiTError, match=told):
        merge_lora(model.config, model.state_dict(), path)


@pytest.mark.parametrize("wrong", [3, {"a": "many"}, ["a"]])
def test_a_wrong_longest_prompt_is_one_sentence(tmp_path, wrong):
    model = random_lidit()
    path = tmp_path / "lora.safetensors"
    save_lora(trained(model), model.config, path)
    tensors, metadata = read_safetensors(path)
    about = {**json.loads(metadata[LORA_KEY]), LONGEST: wrong}
    write_safetensors(path, tensors, {LORA_KEY: json.dumps(about)})
    with pytest.raises(LiDiTError, match="lora.safetensors: longest_prompts.* expected"):
        read_lora(path)


def test_a_lora_never_shortens_what_the_model_knows(tmp_path):
    model = random_lidit()
    path, base = tmp_path / "lora.safetensors", tmp_path / "base.safetensors"
    longest = {"llm 0": 9, "llm 1": 9, "another": 9}
    save_lora(trained(model), model.config, path, longest=longest)
    for known, wanted in ((5, 9), (12, 12), (None, None)):
        llms = tuple(replace(spec, longest_prompt=known) for spec in model.config.llms)
        save_lidit(random_lidit(), replace(model.config, llms=llms), base)
        merged = load_with_loras(base, [(path, 1.0)]).config
        assert [spec.longest_prompt for spec in merged.llms] == [wanted] * 2
