"""LI-DiT as a whole. Run: pytest tests/core/model/test_dit.py"""

from __future__ import annotations

import pytest
import torch
from tiny_lidit import random_lidit as tiny
from tiny_lidit import random_noise as noisy
from tiny_lidit import random_texts as texts

from lidit_core.errors import LiDiTError
from lidit_core.model.attention import scaled_dot_product
from lidit_core.model.dit import LiDiT
from lidit_core.model.presets import PRESETS
from lidit_core.text.states import LLMStates

T = torch.tensor([700.0])


@torch.no_grad()
def run(model: LiDiT, x, text, t=T, **kw):
    return model(x, t.expand(len(x)), text, **kw)


@pytest.mark.parametrize(
    "height, width", [(8, 8), (4, 10), (10, 4), (2, 2), (7, 8), (5, 9), (1, 3)]
)
def test_any_resolution_and_aspect_ratio(height, width):
    assert run(tiny(), noisy(1, height, width), texts()).shape == (1, 16, height, width)


def test_odd_sides_are_the_padded_latent_cut_again():
    model, x = tiny(), noisy(1, 5, 7)
    padded = torch.nn.functional.pad(x, (0, 1, 0, 1), mode="replicate")
    assert torch.equal(run(model, x, texts()), run(model, padded, texts())[..., :5, :7])


def test_unpatchify_undoes_patchify():
    model = tiny()
    x = noisy(2, 6, 10)
    patches = x.unflatten(2, (3, 2)).unflatten(4, (5, 2))  # (B, C, rows, p, columns, p)
    tokens = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # (B, N, p·p·C)
    assert torch.equal(model._unpatchify(tokens, rows=3), x)


@pytest.mark.parametrize("llms", [1, 2, 3])
def test_prompts_of_different_lengths_give_what_they_give_alone(llms):
    model, x, text = tiny(llms), noisy(2, 6, 8), texts(llms, 5, 12)
    both = run(model, x, text)
    for row in range(2):
        alone = {i: s[row : row + 1].trimmed() for i, s in text.items()}
        assert (both[row] - run(model, x[row : row + 1], alone)[0]).abs().max() <= 1e-5


def test_one_checkpoint_serves_any_subset_of_its_llms():
    model, x, text = tiny(3), noisy(1, 4, 4), texts(3)
    outputs = [
        run(model, x, {i: text[i] for i in chosen}) for chosen in ((0,), (1,), (0, 2), (0, 1, 2))
    ]
    for i, one in enumerate(outputs):
        assert all((one - other).abs().max() > 1e-4 for other in outputs[:i])


def test_a_step_writes_no_tensor_out_for_a_sentence_that_is_not_needed(monkeypatch):
    """Which takes a thousand looks at the device, and a step as long again."""
    model, x, text = tiny(2), noisy(2, 6, 8), texts(2, 5, 12)
    written = []
    monkeypatch.setattr(torch.Tensor, "__repr__", lambda tensor, **_: written.append(tensor) or "")
    run(model, x, text)
    assert not written


def test_no_text_leaves_cross_attention_out():
    model, x = tiny(1), noisy(2, 4, 4)
    text = texts(1, 6, 6)[0]
    roles = text.roles.clone()
    roles[1] = 0  # the second sample has no token
    mixed = run(model, x, {0: LLMStates(text.hidden, roles)})
    for block in model.blocks:
        torch.nn.init.zeros_(block.cross_attn.proj.weight)
        torch.nn.init.zeros_(block.cross_attn.proj.bias)
    silent = run(model, x[1:], {0: text[1:].emptied()})
    assert torch.isfinite(mixed).all()
    assert (mixed[1] - silent[0]).abs().max() <= 1e-5


def test_text_and_timestep_change_the_output():
    model, x = tiny(), noisy(1, 4, 4)
    base = run(model, x, texts())
    other = {i: s for i, s in texts(2, 9).items()}
    assert not torch.allclose(base, run(model, x, other))
    assert not torch.allclose(base, run(model, x, texts(), t=torch.tensor([20.0])))


def test_a_new_model_predicts_zero_and_has_zero_gates():
    torch.manual_seed(0)
    config = tiny().config
    model = LiDiT(config).initialise()
    assert run(model, noisy(1, 4, 4), texts()).abs().max() == 0
    assert model.blocks[0].modulation.linear.weight.abs().max() == 0
    refiner = model.text_side.linguistic[0].blocks[0]
    assert refiner.gates.linear.weight.abs().max() == 0


def test_the_attention_function_is_the_callers():
    seen = []

    def counted(q, k, v, heads, mask=None):
        seen.append(k.shape[1])
        return scaled_dot_product(q, k, v, heads, mask)

    model = tiny()
    x, text = noisy(1, 4, 4), texts()
    assert torch.equal(run(model, x, text, attention=counted), run(model, x, text))
    assert len(seen) == 2 * 2 + 2 + 2 * 2  # token refiners, collaborative branches, DiT blocks


def test_layers_come_from_operations():
    class Operations:
        built: list[str] = []

        def __getattr__(self, name):
            self.built.append(name)
            return getattr(torch.nn, name)

    operations = Operations()
    model = LiDiT(tiny().config, operations=operations, dtype=torch.bfloat16, device="cpu")
    own = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.LayerNorm, torch.nn.RMSNorm)
    assert len(operations.built) == sum(isinstance(m, own) for m in model.modules())
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    in_layers = sum(
        p.numel() for m in model.modules() if isinstance(m, own) for p in m.parameters()
    )
    assert in_layers == sum(p.numel() for p in model.parameters())  # no raw parameter


def test_bfloat16_is_close_to_float32():
    model, x, text = tiny(), noisy(1, 4, 4), texts()
    exact = run(model, x, text)
    rounded = run(model.to(torch.bfloat16), x.bfloat16(), text).float()
    assert (exact - rounded).abs().max() <= 0.05 * exact.abs().max()


def test_bfloat16_states_into_a_float32_model_cost_their_own_rounding_alone():
    model, x, text = tiny(), noisy(1, 4, 4), texts()
    halved = {i: states.to(dtype=torch.bfloat16) for i, states in text.items()}
    mixed = run(model, x, halved)
    rounded = run(model, x, {i: states.to(dtype=torch.float32) for i, states in halved.items()})
    exact = run(model, x, text)
    assert mixed.dtype == torch.float32 and torch.allclose(mixed, rounded, rtol=1e-5, atol=1e-5)
    assert 0 < (mixed - exact).abs().max() <= 2**-7 * exact.abs().max()


@pytest.mark.parametrize(
    "name, low, high, depth, width, heads",
    [("LI-DiT-1B", 1.05, 1.20, 28, 1152, 16), ("LI-DiT-10B", 10.0, 11.0, 48, 2816, 44)],
)
def test_the_papers_sizes(name, low, high, depth, width, heads):
    config = PRESETS[name]
    assert (config.depth, config.width, config.heads, config.patch) == (depth, width, heads, 2)
    billions = sum(p.numel() for p in LiDiT(config, device="meta").parameters()) / 1e9
    assert low <= billions <= high


def test_the_names_in_a_state_dict_are_public():
    keys = {key for key in tiny(2).state_dict()}
    for key in (
        "patch_embedder.weight",
        "position.conv1.weight",
        "t_embedder.in_layer.weight",
        "pooled_text.weight",
        "text_side.linguistic.0.entry_norm.weight",
        "text_side.linguistic.1.entry.weight",
        "text_side.linguistic.0.t_embedder.out_layer.bias",
        "text_side.linguistic.0.c_embedder.in_layer.weight",
        "text_side.linguistic.0.blocks.1.self_attn.qkv.weight",
        "text_side.linguistic.0.blocks.1.gates.linear.weight",
        "text_side.collaborative.branches.1.0.cross_attn.kv.weight",
        "text_side.collaborative.branches.1.0.modulation.linear.bias",
        "blocks.1.self_attn.norm.query_norm.weight",
        "blocks.1.cross_attn.q.weight",
        "blocks.1.mlp.2.bias",
        "blocks.1.modulation.linear.weight",
        "final_layer.linear.weight",
    ):
        assert key in keys
    assert len(keys) == 170


def test_bad_latents_get_one_sentence():
    with pytest.raises(LiDiTError, match="16 channels"):
        run(tiny(), torch.zeros(1, 4, 8, 8), texts())
    with pytest.raises(LiDiTError, match="text for 1 samples; expected 2"):
        run(tiny(), noisy(2, 4, 4), texts())
