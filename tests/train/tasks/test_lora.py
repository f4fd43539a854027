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
from lidit_core.checkpoints.lora_styles import change_of, oft_turns, turned
from lidit_core.errors import LiDiTError
from lidit_core.io.tensors import read_safetensors, write_safetensors
from lidit_core.model.dit import run_block
from lidit_train.recipe import LORA_KINDS, Lora
from lidit_train.tasks.lidit.lora import (
    LoraAdapter,
    add_lora,
    linear_layers,
    lora_layers,
    save_lora,
)
from lidit_train.tasks.lidit.lora_kinds import OFT

LORA = Lora(rank=3, alpha=6.0)
EACH = [replace(LORA, kind=kind) for kind in LORA_KINDS]
each_kind = pytest.mark.parametrize("lora", EACH, ids=LORA_KINDS)


def call(model, **changes):
    return model(random_noise(2, 4, 6), torch.tensor([200.0, 900.0]), random_texts(2, 5, 7),
                 **changes)  # fmt: skip


def checkpointed(index, block, *inputs):
    return checkpoint(run_block, index, block, *inputs, use_reentrant=False)


AGAIN = {"run_block": checkpointed}


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


@each_kind
@torch.no_grad()
def test_a_fresh_lora_changes_no_bit_and_no_name(lora):
    model = random_lidit()
    before, names = call(model), model.state_dict().keys()
    add_lora(model, lora)
    assert torch.equal(call(model), before)
    assert model.state_dict().keys() == names


@each_kind
def test_a_step_changes_only_the_lora(lora):
    model = random_lidit()
    before = copy.deepcopy(model.state_dict())
    output = call(model).detach()
    adapter = trained(model, lora)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    unmoved = [name for name, parameter in adapter.named_parameters() if not parameter.any()]
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


@pytest.mark.parametrize(
    ("kind", "rows", "told"),
    [
        ("oft", 7, "kind=oft and rank=3, and 0 has 7 rows, which no number from 2 to that divides"),
        ("dora", 1, "kind=dora, and 0 has one row"),
    ],
)
def test_a_layer_that_a_kind_cannot_change_is_refused_by_name(kind, rows, told):
    model = torch.nn.Sequential(torch.nn.Linear(6, rows))
    with pytest.raises(LiDiTError, match=told) as refused:
        add_lora(model, replace(LORA, layers=("0",), kind=kind))
    assert "\n" not in str(refused.value)


def test_an_oft_turns_no_further_than_alpha():
    far, near = (OFT(torch.nn.Linear(4, 6), Lora(3, alpha, kind="oft")) for alpha in (0.0, 0.5))
    torch.manual_seed(0)
    blocks = torch.randn(2, 3, 3)
    free, bound = (oft_turns(blocks, change.limit) for change in (far, near))
    scaled = 0.5 * blocks / (blocks - blocks.mT).norm()
    torch.testing.assert_close(bound, oft_turns(scaled, 0.0))
    assert free.norm() > bound.norm() > 0


@each_kind
def test_gradients_are_those_of_a_model_whose_activations_are_computed_again(lora):
    plain, again = (trained(random_lidit(), lora, **changes) for changes in ({}, AGAIN))
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value)


@each_kind
@torch.no_grad()
def test_a_deep_copy_has_changes_of_its_own(lora):
    model = random_lidit()
    both = torch.nn.ModuleDict({"model": model, "lora": trained(model, lora, steps=0)})
    copied = copy.deepcopy(both)
    before = call(model)
    for parameter in copied["lora"].parameters():
        parameter.copy_(0.1 * torch.randn(parameter.shape))
    assert torch.equal(call(model), before)
    assert not torch.allclose(call(copied["model"]), before)


@each_kind
def test_compiled_blocks_have_it_too(lora):
    model = random_lidit()
    trained(model, lora)
    output = call(model)
    for block in model.blocks:
        block.compile(backend="eager", fullgraph=True)
    torch.testing.assert_close(call(model), output)


@each_kind
@torch.no_grad()
def test_layers_of_another_precision_take_float32_changes(lora):
    model = random_lidit().double()
    adapter = add_lora(model, lora)
    assert {p.dtype for p in adapter.parameters()} == {torch.float32}
    assert call_in(model, torch.float64).dtype == torch.float64


def call_in(model, dtype):
    return model(random_noise(1, 4, 4).to(dtype), torch.tensor([500.0]), random_texts())


@pytest.mark.parametrize("strength", [1.0, 0.25, -1.0])
def test_the_file_merged_is_the_model_that_was_trained(tmp_path, strength):
    model = random_lidit()
    adapter = saved(model, LORA, tmp_path)
    for pair in adapter.values():
        pair.scale *= strength
    assert_close(call(merged(tmp_path, strength)), call(model))


@pytest.mark.parametrize("names", ["", "kohya", "peft"])
@each_kind
def test_what_is_trained_is_what_the_file_makes_of_the_base(tmp_path, lora, names):
    if names == "peft" and lora.kind in ("loha", "oft"):
        with pytest.raises(LiDiTError, match=f"names=peft and kind={lora.kind}, for which"):
            replace(lora, names=names)
        return
    model = random_lidit()
    before = call(model).detach()
    saved(model, replace(lora, names=names), tmp_path, steps=4)
    after = call(model)
    assert (after - before).abs().max() > 1e-3 * before.abs().max()
    assert_close(call(merged(tmp_path)), after)


@each_kind
def test_gradients_are_those_of_the_weight_that_the_file_makes(lora):
    """Each parameter's, and that of the inputs, from a change that is not zero."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(6, 9).requires_grad_(False)
    model = torch.nn.Sequential(layer)
    adapter = LoraAdapter({"0": layer}, lora)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter += 0.3 * torch.randn(parameter.shape)
    inputs = torch.randn(2, 5, 6, requires_grad=True)
    learnt, weigh = [inputs, *adapter.parameters()], torch.randn(2, 5, 9)
    ours = torch.autograd.grad((model(inputs) * weigh).sum(), learnt)
    change = adapter["0"]
    tensors = change.parts(dict(change.named_parameters()))
    parts = {**tensors, "alpha": torch.tensor(lora.alpha)}
    weight = turned(layer.weight, parts, 1.0)
    weight = layer.weight + change_of(parts) if weight is None else weight
    output = torch.nn.functional.linear(inputs, weight, layer.bias)
    torch.testing.assert_close(model(inputs), output)
    theirs = torch.autograd.grad((output * weigh).sum(), learnt)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def saved(model, lora: Lora, folder, **changes):
    """An adapter that was trained, beside files of it and of its base."""
    save_lidit(model, model.config, folder / "base.safetensors")
    adapter = trained(model, lora, **changes)
    save_lora(adapter, model.config, folder / "lora.safetensors", base="base")
    return adapter


def merged(folder, strength: float = 1.0):
    return load_with_loras(folder / "base.safetensors", [(folder / "lora.safetensors", strength)])


def assert_close(a, b):
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
    assert all((own["A"] == 0.5).all() for own in lora_layers(adapter, average).values())


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
