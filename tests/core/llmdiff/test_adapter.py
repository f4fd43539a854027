"""The adapter in a U-Net, and its file. Run: pytest tests/core/llmdiff/test_adapter.py"""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from tiny_adapter import (
    BLOCKS,
    WIDTH,
    adapter_config,
    differences,
    latents,
    new_adapter,
    new_learner,
    noised_batch,
    trained_adapter,
)
from tiny_unet import TINY, predict, random_inputs, random_unet
from torch import Tensor, nn

from lidit_core.errors import LiDiTError
from lidit_core.io.tensors import read_safetensors, write_safetensors
from lidit_core.llmdiff.adapter import LLMDiffAdapter
from lidit_core.llmdiff.config import AdapterConfig, TokenRefiner
from lidit_core.llmdiff.file import ADAPTER_KEY, load_adapter, read_adapter_config, write_adapter
from lidit_core.model.attention import scaled_dot_product
from lidit_core.text.spec import LLMSpec
from lidit_core.text.states import LLMStates
from lidit_train.tasks.adapter.learner import LayerInputs

TEXTS = ["a cat and a dog", "two bees"]
REFINER = TokenRefiner(blocks=1, width=16, heads=2)
SUMMATION = 1e-5  # of one layer in float32, in another order
OF_UNET = 1e-3  # of a whole U-Net whose output is about 1


def literal_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """softmax(q k^T / sqrt(d)) v of one sample (N, D), (K, D), head by head."""
    parts = []
    for qh, kh, vh in zip(*(x.chunk(heads, dim=-1) for x in (q, k, v))):
        parts.append((qh @ kh.T / math.sqrt(qh.shape[-1])).softmax(-1) @ vh)
    return torch.cat(parts, dim=-1)


@torch.no_grad()
def test_a_layer_computes_the_papers_formula_in_both_modes():
    learner = new_learner(trained_adapter())
    adapter, states = learner.adapter, differences(5, 5)
    attn, layer = learner.adapted()[3], adapter.layers[3]
    x = torch.randn(2, 9, layer.q.in_features, generator=torch.Generator().manual_seed(0))
    own = torch.randn(1, 5, TINY["sd15"].context_width)
    text = adapter.read(states, torch.zeros(2))
    context = torch.cat([adapter.context(text)[:1], own])
    learner.inputs = LayerInputs(text, torch.tensor([True, False]))
    made = attn(x, encoder_hidden_states=context)

    x0, *deltas = states.hidden.split(WIDTH, dim=-1)
    c = x0 + sum(g * delta for g, delta in zip(adapter.langevin.g, deltas))
    c = c / (c.square().mean(-1, keepdim=True) + adapter.norm.eps).sqrt() * adapter.norm.weight
    phi_c = c[0] @ adapter.to_context.weight.T + adapter.to_context.bias
    for row, (read, scale) in enumerate([(phi_c, layer.a1 * layer.b1.exp()), (own[0], 1.0)]):
        q, k, v = x[row] @ attn.to_q.weight.T, read @ attn.to_k.weight.T, read @ attn.to_v.weight.T
        f = scale * literal_attention(q, k, v, layer.heads)
        q, k = x[row] @ layer.q.weight.T, c[row] @ layer.k.weight.T + layer.k.bias
        v = c[row] @ layer.v.weight.T + layer.v.bias
        f = f + layer.a2 * layer.b2.exp() * literal_attention(q, k, v, layer.heads)
        torch.testing.assert_close(made[row], attn.to_out[0](f), rtol=1e-4, atol=SUMMATION)


def test_an_untrained_path_adds_exactly_nothing_and_can_learn_to():
    adapter = new_adapter()
    layer, text = adapter.layers[0], adapter.read(differences(4), torch.zeros(1))
    added = layer(torch.randn(1, 6, layer.q.in_features), text, 0, scaled_dot_product)
    assert not added.any()
    (added * torch.randn_like(added)).sum().backward()
    assert layer.a2.grad.abs() > 0
    assert not layer.v.weight.grad.any()


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
@torch.no_grad()
def test_an_untrained_adapter_beside_the_checkpoint_changes_no_bit(kind):
    inputs = random_inputs(TINY[kind])
    learner = new_learner(new_adapter(kind, timestep_gates=True), kind)
    z, t = inputs["sample"], inputs["timestep"]
    base = learner.predict(z, t, differences(3, 7), TEXTS, mode="base")
    beside = learner.predict(z, t, differences(3, 7), TEXTS, mode="add")
    assert torch.equal(beside, base)
    context, pooled = learner.own.read(TEXTS)
    inputs["encoder_hidden_states"] = context
    if pooled is not None:
        side = 8.0 * z.shape[-1]
        sizes = torch.tensor([[side, side, 0, 0, side, side]] * 2)
        inputs |= {"text_embeds": pooled, "time_ids": sizes}
    own = predict(random_unet(TINY[kind]), inputs)
    torch.testing.assert_close(base, own, rtol=0, atol=SUMMATION)
    trained = new_learner(trained_adapter(kind), kind)
    assert not torch.allclose(
        trained.predict(z, t, differences(3, 7), TEXTS, mode="add"), base, atol=1e-3
    )


@pytest.mark.parametrize("mode", ["replace", "add"])
@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
@torch.no_grad()
def test_prompts_of_unequal_length_are_read_as_if_alone(kind, mode):
    learner = new_learner(trained_adapter(kind, refiner=REFINER), kind)
    states, (z, t) = differences(3, 7, instruction=2), latents(2, kind)
    together = learner.predict(z, t, states, TEXTS, mode=mode)
    for row in range(2):
        only = slice(row, row + 1)
        alone = learner.predict(z[only], t[only], states[only].trimmed(), TEXTS[only], mode=mode)
        torch.testing.assert_close(together[only], alone, rtol=0, atol=OF_UNET)


@torch.no_grad()
def test_rows_of_both_modes_are_computed_as_if_alone():
    learner = new_learner(trained_adapter("sdxl"), "sdxl")
    states, (z, t) = differences(40, 6), latents(2, "sdxl")  # longer than the own text, and shorter
    both = learner.predict(z, t, states, TEXTS)
    for row, mode in enumerate(("replace", "add")):
        alone = learner.predict(z, t, states, TEXTS, mode=mode)
        torch.testing.assert_close(both[row], alone[row], rtol=0, atol=OF_UNET)


@pytest.mark.parametrize("length", [5, 0])
@torch.no_grad()
def test_a_sample_without_tokens_adds_nothing_and_is_no_nan(length):
    learner = new_learner(trained_adapter())
    z, t = latents(1)
    states = differences(5).emptied()
    states = LLMStates(states.hidden[:, :length], states.roles[:, :length])
    base = learner.predict(z, t, states, [""], mode="base")
    assert torch.equal(learner.predict(z, t, states, [""], mode="add"), base)
    assert learner.predict(z, t, states, [""], mode="replace").isfinite().all()


@torch.no_grad()
def test_a_sample_without_tokens_is_read_alike_in_any_batch():
    learner = new_learner(trained_adapter())
    (z, t), states = latents(2), differences(5, 0)
    for mode in ("add", "replace"):
        both = learner.predict(z, t, states, ["a cat", ""], mode=mode)
        alone = learner.predict(z[1:], t[1:], states[1:].trimmed(), [""], mode=mode)
        torch.testing.assert_close(both[1:], alone, rtol=0, atol=OF_UNET)


@torch.no_grad()
def test_the_instruction_is_dropped_after_the_refiner_has_read_it():
    plain, refined = trained_adapter(), trained_adapter(refiner=REFINER)
    states, t = differences(2, 4, instruction=3), torch.full((2,), 500.0)
    other = LLMStates(states.hidden.clone(), states.roles)
    other.hidden[:, :3] += 1
    for adapter, depends in ((plain, False), (refined, True)):
        text, changed = adapter.read(states, t), adapter.read(other, t)
        assert text.tokens.shape[:2] == (2, 4)
        assert text.seen.tolist() == [[True] * 2 + [False] * 2, [True] * 4]
        assert depends != torch.equal(text.tokens[text.seen], changed.tokens[text.seen])


@torch.no_grad()
def test_a_refiner_and_gates_follow_the_timestep_and_nothing_else_does():
    states, early, late = differences(4), torch.full((1,), 900.0), torch.full((1,), 10.0)
    for adapter in (trained_adapter(), new_adapter()):
        assert not adapter.changes_with_time
        a, b = adapter.read(states, early), adapter.read(states, late)
        assert torch.equal(a.tokens, b.tokens) and a.gates is None
    refined = trained_adapter(refiner=REFINER)
    a, b = refined.read(states, early).tokens, refined.read(states, late).tokens
    assert refined.changes_with_time and not torch.allclose(a, b, atol=1e-3)
    gated = trained_adapter(timestep_gates=True)
    a, b = gated.read(states, early), gated.read(states, late)
    assert gated.changes_with_time and torch.equal(a.tokens, b.tokens)
    assert a.gates.shape == (1, len(gated.layers)) and not torch.allclose(a.gates, b.gates)


@torch.no_grad()
def test_a_gate_of_the_timestep_is_added_to_b2_and_begins_at_nothing():
    adapter = new_adapter(timestep_gates=True)
    layer, x = adapter.layers[2], torch.randn(1, 6, adapter.layers[2].q.in_features)
    layer.a2.fill_(0.7)
    text = adapter.read(differences(4), torch.full((1,), 500.0))
    plain = layer(x, replace(text, gates=None), 2, scaled_dot_product)
    assert torch.equal(layer(x, text, 2, scaled_dot_product), plain)
    adapter.gates.bias[2] = math.log(3)
    text = adapter.read(differences(4), torch.full((1,), 500.0))
    torch.testing.assert_close(layer(x, text, 2, scaled_dot_product), 3 * plain)


def test_the_noise_is_drawn_only_when_asked_and_repeats_with_its_seed():
    adapter, states, t = trained_adapter(), differences(4), torch.zeros(1)
    clean = adapter.read(states, t).tokens
    first, again, other = (
        adapter.read(states, t, generator=torch.Generator().manual_seed(s), noisy=True).tokens
        for s in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, clean) and not torch.equal(first, other)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (lambda a: a.read(LLMStates(torch.zeros(1, 2, 7), torch.ones(1, 2)), None), "are 7 wide"),
        (lambda a: a.context(a.read(differences(2), torch.zeros(1))), "'replace' was asked for"),
        (lambda a: a.pooled(a.read(differences(2), torch.zeros(1))), "'replace' was asked for"),
    ],
)
def test_what_does_not_fit_an_adapter_is_one_sentence(asked, told):
    with pytest.raises(LiDiTError, match=told) as caught:
        asked(trained_adapter(modes=("add",)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["add", "replase", "replace"])
def test_a_mode_that_was_not_trained_is_refused(mode):
    trained = "add" if mode == "replace" else "replace"
    learner, (z, t) = new_learner(trained_adapter(modes=(trained,))), latents(1)
    with pytest.raises(LiDiTError, match=f"mode '{mode}' was asked for.* for {trained};"):
        learner.predict(z, t, differences(2), ["a"], mode=mode)


@torch.no_grad()
def test_rows_take_turns_and_batches_of_one_row_do_too():
    learner = new_learner(trained_adapter())
    batches = [noised_batch(seed, TEXTS) for seed in range(8)]
    turns = [learner(batch) and learner.inputs.replaced.tolist() for batch in batches]
    assert all(turn in ([True, False], [False, True]) for turn in turns)
    assert len(set(map(tuple, turns))) == 2
    ones = [learner(b.part(slice(0, 1))) and learner.inputs.replaced.tolist() for b in batches]
    assert ones == [turn[:1] for turn in turns]


# The configuration and the file


@pytest.mark.parametrize("changes", [{}, {"refiner": REFINER, "modes": ("add",)}])
def test_a_configuration_comes_back_from_its_json(changes):
    config = adapter_config("sdxl", timestep_gates=True, form="consecutive", **changes)
    assert AdapterConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"gates": True}, "unknown field 'gates'"),
        ({"format": 2}, "has format 2; this version reads 1"),
        ({"format": None}, "has format None"),
        ({"modes": ["both"]}, "modes \\['both'\\]"),
        ({"modes": []}, "expected some of replace, add"),
        ({"layers": []}, "has no layers"),
        ({"blocks": 0}, "has blocks=0"),
        ({"form": "backwards"}, "form='backwards'"),
        ({"refiner": {"width": 16, "heads": 3}}, "a width that its heads divide"),
        ({"refiner": {"blocks": 0}}, "has blocks=0"),
    ],
)
def test_a_configuration_with_a_mistake_is_one_sentence(change, told):
    data = {**json.loads(adapter_config().to_json()), **change}
    with pytest.raises(LiDiTError, match=told) as caught:
        AdapterConfig.from_json(json.dumps(data))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", "3"])
def test_a_configuration_that_is_no_json_is_one_sentence(text):
    with pytest.raises(LiDiTError, match="no JSON object"):
        AdapterConfig.from_json(text)


def test_an_llm_that_is_read_at_one_block_is_refused():
    with pytest.raises(LiDiTError, match="is read at block -3; expected 'differences' for form"):
        adapter_config(llm=LLMSpec("tiny", WIDTH))


@torch.no_grad()
def test_a_file_gives_the_adapter_back(tmp_path):
    made = trained_adapter("sdxl", refiner=REFINER, timestep_gates=True)
    path = tmp_path / "adapter.safetensors"
    write_adapter(path, made.state_dict(), made.config)
    assert read_adapter_config(path) == made.config
    read = load_adapter(path)
    assert all(torch.equal(v, read.state_dict()[k]) for k, v in made.state_dict().items())
    t = torch.full((1,), 400.0)
    again, text = read.read(differences(3), t), made.read(differences(3), t)
    # Where a tensor lies in memory decides over the last bit of a product.
    torch.testing.assert_close(again.tokens, text.tokens)
    torch.testing.assert_close(again.gates, text.gates)


@torch.no_grad()
def test_a_file_in_bfloat16_is_computed_with_in_float32(tmp_path):
    made, path = trained_adapter(), tmp_path / "adapter.safetensors"
    halved = {k: v.to(torch.bfloat16) for k, v in made.state_dict().items()}
    write_adapter(path, halved, made.config)
    read = load_adapter(path)
    assert {p.dtype for p in read.parameters()} == {torch.float32}
    assert all(torch.equal(v, halved[k].float()) for k, v in read.state_dict().items())
    text = read.read(differences(3), torch.zeros(1))
    assert text.tokens.dtype == torch.float32
    half = load_adapter(path, torch.bfloat16)
    assert half.read(differences(3), torch.zeros(1)).tokens.dtype == torch.bfloat16


def test_files_that_are_no_whole_adapter_are_refused(tmp_path):
    made, path = new_adapter(), tmp_path / "adapter.safetensors"
    weights = made.state_dict()
    lacking = {k: v for k, v in weights.items() if k != "layers.1.q.weight"}
    write_adapter(path, lacking, made.config)
    with pytest.raises(LiDiTError, match="1 missing \\(layers.1.q.weight\\)"):
        load_adapter(path)
    write_adapter(path, {**weights, "more": torch.zeros(1)}, made.config)
    with pytest.raises(LiDiTError, match="1 unexpected \\(more\\)"):
        load_adapter(path)
    write_adapter(path, {**weights, "norm.weight": torch.zeros(WIDTH + 1)}, made.config)
    with pytest.raises(LiDiTError, match="1 misshapen \\(norm.weight"):
        load_adapter(path)
    write_safetensors(path, weights, {})
    for read in (load_adapter, read_adapter_config):
        with pytest.raises(LiDiTError, match="is no LLMDiff adapter"):
            read(path)


def test_a_file_says_itself_what_it_is(tmp_path):
    made, path = new_adapter(), tmp_path / "adapter.safetensors"
    write_adapter(path, made.state_dict(), made.config)
    told = json.loads(read_safetensors(path)[1][ADAPTER_KEY])
    assert told["format"] == 1 and told["llm"]["block"] == "differences"
    assert told["blocks"] == BLOCKS and len(told["layers"]) == len(made.layers)


def test_layers_are_built_from_the_hosts_operations():
    class Counted(nn.Linear):
        made = 0

        def __init__(self, *sizes, **options) -> None:
            super().__init__(*sizes, **options)
            Counted.made += 1

    class Operations:
        Linear, RMSNorm, Embedding = Counted, nn.RMSNorm, nn.Embedding

    adapter = LLMDiffAdapter(adapter_config("sdxl", timestep_gates=True), Operations, device="meta")
    assert Counted.made == sum(isinstance(m, nn.Linear) for m in adapter.modules())
