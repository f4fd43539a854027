"""Warm start from PixArt, beside PixArt's own formulas.

Run: pytest tests/train/tasks/test_pixart.py
"""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from tiny_lidit import lidit_config, random_lidit, random_states, randomise
from tiny_pixart import (
    DEPTH,
    HEADS,
    D,
    as_diffusers,
    attended,
    ffn,
    linear,
    norm,
    pixart,
    queries_keys_values,
    t_embedding,
    vectors,
)

from lidit_core.errors import LiDiTError
from lidit_core.model.attention import scaled_dot_product
from lidit_core.model.dit import LiDiT
from lidit_core.model.layers import modulate
from lidit_core.model.text_side import TextContext
from lidit_train.tasks.lidit.pixart import warm_start

TIMES = torch.tensor([0.0, 17.0, 500.0, 999.0])


def fresh_lidit() -> LiDiT:
    return random_lidit(depth=DEPTH, width=D, heads=HEADS)


@pytest.fixture(params=[False, True], ids=["sigma", "alpha-1024"])
def both(request, tmp_path):
    """PixArt's weights, and the LI-DiT that was begun with them."""
    weights = pixart(micro=request.param)
    save_file(weights, tmp_path / "pixart.safetensors")
    model = fresh_lidit()
    done = warm_start(model, tmp_path / "pixart.safetensors")
    return SimpleNamespace(weights=weights, model=model, done=done)


def tokens(batch: int = len(TIMES), seed: int = 1, count: int = 12):
    return torch.randn(batch, count, D, generator=torch.Generator().manual_seed(seed))


def near(a, b, limit: float = 1e-6) -> bool:
    return a.shape == b.shape and (a - b).abs().max() <= limit * b.abs().max()


@torch.no_grad()
def test_the_timestep_embedding_is_pixarts(both):
    assert near(both.model.t_embedder(TIMES, torch.float32), t_embedding(both.weights, TIMES))


@torch.no_grad()
def test_the_modulation_is_pixarts_and_cross_attention_begins_closed(both):
    """Also behind the pooled text, whatever the text is."""
    states = {0: random_states(5), 1: random_states(7)}
    context = both.model.text_side(states, TIMES[:1], torch.float32, scaled_dot_product)
    pooled = both.model.pooled_text(context.pooled)
    assert context.pooled.any() and not pooled.any()
    for i, block in enumerate(both.model.blocks):
        ours = block.modulation(both.model.t_embedder(TIMES, torch.float32) + pooled)
        theirs = vectors(both.weights, f"blocks.{i}", TIMES)
        assert all(near(ours[a], theirs[b]) for a, b in zip((0, 1, 2, 6, 7, 8), range(6)))
        assert not torch.cat(ours[3:6]).any()


@torch.no_grad()
def test_the_sublayers_are_pixarts(both):
    """The whole block as well, with both QK norms taken out of ours."""
    x = tokens()
    for i, block in enumerate(both.model.blocks):
        name = f"blocks.{i}"
        shift1, scale1, gate1, shift2, scale2, gate2 = vectors(both.weights, name, TIMES)
        h = norm(x) * (1 + scale1) + shift1
        q, k, v = queries_keys_values(both.weights, name, h)
        attention = linear(both.weights, f"{name}.attn.proj", attended(q, k, v))
        block.self_attn.norm.enabled = False
        assert near(torch.cat([q, k, v], dim=-1), block.self_attn.qkv(h))
        assert near(block.self_attn(h, scaled_dot_product), attention, 5e-6)
        y = x + gate1 * attention
        h = norm(y) * (1 + scale2) + shift2
        assert near(block.mlp(h), ffn(both.weights, name, h))
        y = y + gate2 * ffn(both.weights, name, h)
        c = both.model.t_embedder(TIMES, torch.float32)
        text = TextContext(tokens(seed=2, count=5), None, None, tokens(count=1)[:, 0])
        assert near(block(x, c, text, scaled_dot_product), y, 5e-6)


@torch.no_grad()
def test_the_qk_norms_keep_the_size_of_attention_logits(tmp_path):
    """Heads whose coordinates differ much in size, at timesteps that were not measured."""
    weights = pixart(seed=3)
    profile = torch.linspace(-1.2, 1.2, D // HEADS).exp().repeat(HEADS)  # 11-fold in a head
    for i in range(DEPTH):
        weights[f"blocks.{i}.attn.qkv.weight"][: 2 * D] *= profile.repeat(2)[:, None] * 1.5
    save_file(weights, tmp_path / "pixart.safetensors")
    model = fresh_lidit()
    warm_start(model, tmp_path / "pixart.safetensors")
    t = torch.tensor([100.0, 400.0, 700.0, 950.0])
    for i, block in enumerate(model.blocks):
        shift, scale, *_ = vectors(weights, f"blocks.{i}", t)
        h = modulate(norm(tokens(count=64)), shift, scale)
        q, k, _ = queries_keys_values(weights, f"blocks.{i}", h)
        theirs, ours = logits(q, k), logits(*block.self_attn.norm(q, k))
        assert 0.8 < ours.std() / theirs.std() < 1.2  # of 12 coordinates, an RMSNorm takes some
        assert torch.corrcoef(torch.stack([ours.flatten(), theirs.flatten()]))[0, 1] > 0.85


def logits(q, k):
    q, k = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (q, k))
    return q @ k.transpose(-2, -1)


def test_the_listing_is_complete(both):
    copied, fresh = set(both.done.copied), set(both.done.fresh)
    assert not copied & fresh and copied | fresh == set(both.model.state_dict())
    assert len(both.done.copied) == len(copied) == 4 + DEPTH * 12
    assert {name.split(".")[0] for name in copied} == {"t_embedder", "blocks"}
    unused = set(both.done.unused)
    assert {"pos_embed", "x_embedder.proj.weight", "blocks.0.cross_attn.proj.bias"} <= unused
    assert unused.isdisjoint({"t_block.1.weight", "blocks.2.scale_shift_table"})
    assert not any(name.startswith(("csize", "ar_")) for name in unused)
    lines = both.done.sentences()
    assert "blocks.*.mlp.0 (6), " in lines[0] and lines[0].startswith("from the weights of pixart.")
    of_text = sum(name.startswith("text_side.") for name in fresh)
    assert lines[1].startswith(f"fresh: text_side ({of_text}), patch_embedder (2), ")
    assert "y_embedder.y_embedding (1)" in lines[2]


def test_the_rest_of_the_model_stays_as_it_was(both):
    before = fresh_lidit().state_dict()
    for name in both.done.fresh:
        kept = (
            before[name] if not name.startswith("pooled_text") else torch.zeros_like(before[name])
        )
        assert torch.equal(both.model.state_dict()[name], kept), name


@pytest.mark.parametrize("micro", [False, True])
def test_both_layouts_and_both_kinds_of_file_give_the_same_model(tmp_path, micro):
    weights = pixart(micro)
    save_file(weights, tmp_path / "a.safetensors")
    save_file(as_diffusers(weights), tmp_path / "b.safetensors")
    prefixed = {f"model.diffusion_model.{k}": v for k, v in weights.items()}
    save_file(prefixed, tmp_path / "c.safetensors")
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "d.pth")
    torch.save(weights, tmp_path / "e.pth")
    other = pixart(micro, seed=9)
    torch.save({"state_dict": other, "state_dict_ema": weights}, tmp_path / "f.pth")
    states, done = {}, {}
    for path in sorted(tmp_path.iterdir()):
        model = fresh_lidit()
        done[path.name] = warm_start(model, path)
        states[path.name] = model.state_dict()
    assert len(states) == 6
    for name, state in states.items():
        assert all(torch.equal(v, states["a.safetensors"][k]) for k, v in state.items()), name
    assert [done[name].averaged for name in sorted(done)] == [False] * 5 + [True]
    assert done["f.pth"].sentences()[0].startswith("from the averaged weights of f.pth")
    assert {*done["b.safetensors"].unused} == {
        name for name in as_diffusers(weights)
        if name.startswith(("pos_embed", "caption", "scale_shift", "proj_out")) or ".attn2." in name
    }  # fmt: skip


def test_a_warm_started_model_learns(tmp_path):
    save_file(pixart(), tmp_path / "pixart.safetensors")
    model = LiDiT(fresh_lidit().config).initialise()
    warm_start(model, tmp_path / "pixart.safetensors")
    randomise(model.final_layer)
    text = {0: random_states(5), 1: random_states(7)}
    model(torch.randn(1, 16, 4, 4), torch.tensor([500.0]), text).square().mean().backward()
    for name in ("pooled_text.weight", "blocks.1.modulation.linear.weight"):
        assert model.get_parameter(name).grad.any(), name


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_file_that_would_run_something_is_refused(tmp_path):
    torch.save({"state_dict": pixart(), "more": Evil(tmp_path / "owned")}, tmp_path / "a.pth")
    with pytest.raises(LiDiTError, match="a.pth holds more than tensors.*as .safetensors$") as told:
        warm_start(fresh_lidit(), tmp_path / "a.pth")
    assert "\n" not in str(told.value) and not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"depth": 2}, "has depth 3 and this LI-DiT 2"),
        ({"width": 32}, "has width 48 and this LI-DiT 32"),
        ({"heads": 2}, "has heads 4 and this LI-DiT 2"),
    ],
)
def test_other_sizes_are_one_sentence_with_both_numbers(tmp_path, changes, told):
    save_file(as_diffusers(pixart()), tmp_path / "pixart.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": HEADS}))
    sizes = {"depth": DEPTH, "width": D, "heads": HEADS}
    model = LiDiT(lidit_config("a", **{**sizes, **changes}))
    with pytest.raises(LiDiTError, match=told):
        warm_start(model, tmp_path / "pixart.safetensors")


def without(name: str):
    return {k: v for k, v in pixart().items() if k != name}


Q_NORM = {"blocks.0.attn.q_norm.weight": torch.ones(D)}
NORM_Q = {"transformer_blocks.0.attn1.norm_q.weight": torch.ones(D)}


@pytest.mark.parametrize("weights, told", [
    ({"a": torch.zeros(2)}, "is no PixArt: it lacks t_block.1.weight"),
    (without("x_embedder.proj.weight"), "is no PixArt"),
    (without("blocks.1.mlp.fc2.bias"), "lacks blocks.1.mlp.fc2.bias; fetch"),
    ({**pixart(), **Q_NORM}, r"keys \(blocks.0.attn.q_norm.weight\)"),
    ({**as_diffusers(pixart()), **NORM_Q}, r"keys \(transformer_blocks.0.attn1.norm_q.weight\)"),
    ({**pixart(), "blocks.0.mlp.fc1.weight": torch.zeros(96, D)},
     r"blocks.0.mlp.0.weight as \(96, 48\) and this LI-DiT has \(192, 48\)"),
])  # fmt: skip
def test_another_file_is_one_sentence(tmp_path, weights, told):
    for name in ("a.safetensors", "a.pth"):
        save = save_file if name.endswith("s") else torch.save
        save(weights, tmp_path / name)
        with pytest.raises(LiDiTError, match=told):
            warm_start(fresh_lidit(), tmp_path / name)


def test_a_missing_or_odd_file_is_one_sentence(tmp_path):
    for name in ("a.safetensors", "a.pth"):
        with pytest.raises(LiDiTError, match=f"no file .*{name}"):
            warm_start(fresh_lidit(), tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(LiDiTError, match="is no PixArt"):
        warm_start(fresh_lidit(), tmp_path / "list.pth")
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04")
    with pytest.raises(LiDiTError, match="is damaged"):
        warm_start(fresh_lidit(), tmp_path / "cut.pth")
