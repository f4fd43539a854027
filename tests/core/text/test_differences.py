"""What a block adds because of the context. Run: pytest tests/core/text/test_differences.py"""

from __future__ import annotations

import pytest
import torch
from tiny_llm import (
    FAMILIES,
    HYBRIDS,
    chat_tokenizer,
    plain_tokenizer,
    reference_model,
    save_llm,
)

from lidit_core.errors import LiDiTError
from lidit_core.llm.loading import load_llm
from lidit_core.llm.locate import available, locate
from lidit_core.text.differences import (
    block_attention,
    decoder_blocks,
    difference_states,
    masked_pass,
    reduces_to_values,
    value_pass,
)
from lidit_core.text.encoder import LLMEncoder, run_decoder
from lidit_core.text.prompt_encoder import PromptEncoder
from lidit_core.text.spec import LLMSpec

PROMPTS = ["a red cat left of two dogs on a blue background", "", "two bees"]
LIMIT = 1e-5
GPT_OSS = {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8, "sliding_window": 8}
MASKED = {"Phi": {}, "GptOss": GPT_OSS}  # a projection of another name; a sink beside the token


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_llm(tmp_path_factory.mktemp("llm") / "tiny-llama")


@torch.no_grad()
def literal_states(decoder, ids) -> tuple[torch.Tensor, torch.Tensor]:
    """The formulas, token by token, on transformers' whole model: states and the stream x_l.

    Both are (L, T + 1, C).
    """
    stream, calls = [], []
    hooks = [
        block.register_forward_pre_hook(lambda _, args, kw: calls.append(kw), with_kwargs=True)
        for block in decoder_blocks(decoder)
    ]
    norm = getattr(decoder, "norm", None) or decoder.final_layernorm
    hooks.append(norm.register_forward_pre_hook(lambda _, args: stream.append(args[0])))
    out = decoder(torch.tensor([ids]), output_hidden_states=True)
    for hook in hooks:
        hook.remove()
    stream = [*out.hidden_states[:-1], *stream]  # the last one before the final norm
    states = [stream[0][0]]
    for index, block in enumerate(decoder_blocks(decoder)):
        before, after = stream[index][0], stream[index + 1][0]
        delta = [
            (after[d] - before[d]) - (token_alone(block, before[d], calls[index]) - before[d])
            for d in range(len(ids))
        ]
        states.append(torch.stack(delta))
    return torch.stack(states, 1), torch.stack([x[0] for x in stream], 1)


def token_alone(block, x: torch.Tensor, options: dict) -> torch.Tensor:
    """The block on a text of this one token."""
    rotary = {
        name: tuple(part[:, :1] for part in value)
        for name, value in options.items()
        if name.startswith("position_embeddings")
    }
    out = block(x[None, None], attention_mask=None, **rotary)
    return (out[0] if isinstance(out, tuple) else out).flatten()


def error(ours: torch.Tensor, theirs: torch.Tensor, stream: torch.Tensor) -> float:
    """The largest over tokens and blocks of |difference| / |x_l|, both (L, T + 1, C)."""
    return ((ours - theirs).norm(dim=-1) / stream.norm(dim=-1)).max().item()


def save(folder, family: str):
    tokenizer = plain_tokenizer() if family.startswith("Gemma") else chat_tokenizer()
    return save_llm(folder / family, family, tokenizer, **MASKED.get(family, {}))


@pytest.mark.parametrize("family", [*FAMILIES, "Gemma", *MASKED])
def test_equal_to_the_formulas_token_by_token(family, tmp_path):
    """Alone, in a padded batch, instruction reused and not."""
    folder = save(tmp_path, family)
    llm = load_llm(folder, block="differences", dtype=torch.float32)
    attention = block_attention(decoder_blocks(llm.module)[0])
    assert reduces_to_values(attention) == (family not in MASKED)
    reused, plain = LLMEncoder(llm, "short"), LLMEncoder(llm, "short", reuse=False)
    batches = [encoder.encode(PROMPTS) for encoder in (reused, plain)]
    decoder = reference_model(folder).model
    for row, prompt in enumerate(PROMPTS):
        ids = reused.renderer(prompt).ids
        assert len(reused.renderer.prefix) > 2
        theirs, stream = literal_states(decoder, ids)
        assert theirs[1:, 1:].norm(dim=-1).min() > 1e-3  # they are no zeros
        alone = [encoder.encode([prompt]) for encoder in (reused, plain)]
        for states in [b[row : row + 1] for b in batches] + alone:
            ours = states.hidden[0, : len(ids)].unflatten(-1, (llm.blocks + 1, llm.width))
            assert error(ours, theirs, stream) <= LIMIT
            assert (states.hidden[0, len(ids) :] == 0).all()


@pytest.mark.parametrize("family", [*FAMILIES, "Gemma"])
def test_value_projection_equals_the_masked_pass(family, tmp_path):
    llm = load_llm(save(tmp_path, family), block="all", dtype=torch.float32)
    texts = [list(range(20, 60)), list(range(70, 82))]

    def run():
        run_decoder(llm.module, texts, llm.device)

    both = [difference_states(llm.module, run, way) for way in (value_pass, masked_pass)]
    assert (both[0] - both[1]).abs().max() <= LIMIT * both[0].abs().max()
    assert both[0].shape == (2, 40, 7 * 32)


def test_the_masked_pass_does_not_read_the_cache(tmp_path):
    """Reused tokens are no part of a token alone."""
    llm = load_llm(save(tmp_path, "GptOss"), block="differences", dtype=torch.float32)
    reused, plain = LLMEncoder(llm, "paper"), LLMEncoder(llm, "paper", reuse=False)
    assert torch.allclose(
        reused.encode(PROMPTS).hidden, plain.encode(PROMPTS).hidden, atol=LIMIT * 10
    )


def test_last_block_is_without_the_final_norm_and_first_token_keeps_its_embedding(llama):
    llm = load_llm(llama, block="all", dtype=torch.float32)
    every = LLMEncoder(llm, "short").encode(["two bees"]).hidden[0].unflatten(-1, (7, 32))
    encoder = LLMEncoder(llm, "short", differences=True)
    ours = encoder.encode(["two bees"]).hidden[0].unflatten(-1, (7, 32))
    block = decoder_blocks(llm.module)[5]
    alone = value_pass(block, every[None, :, 5], {"position_embeddings": None})[0]
    assert torch.allclose(alone + ours[:, 6], every[:, 6], atol=LIMIT)
    assert torch.equal(ours[:, 0], every[:, 0])
    assert ours[0, 1:].abs().max() <= LIMIT < 1e-3 < ours[1, 1:].abs().min(dim=0).values.max()


def test_asked_for_at_loading_or_of_an_llm_with_every_block(llama):
    loaded = load_llm(llama, block="differences", dtype=torch.float32)
    assert loaded.blocks == 6 and loaded.state_width == 7 * 32
    every = load_llm(llama, block="all", dtype=torch.float32)
    ours = LLMEncoder(loaded, "short").encode(PROMPTS)
    assert torch.equal(
        LLMEncoder(every, "short", differences=True).encode(PROMPTS).hidden, ours.hidden
    )
    assert not torch.allclose(LLMEncoder(every, "short").encode(PROMPTS).hidden, ours.hidden)
    with pytest.raises(LiDiTError, match="up to block -3; expected every block"):
        LLMEncoder(load_llm(llama), "short", differences=True)
    with pytest.raises(LiDiTError, match="a whole number, several, 'all' or 'differences'"):
        load_llm(llama, block="difference")


@pytest.mark.parametrize("family", HYBRIDS)
def test_blocks_that_are_not_attention_are_refused(family, tmp_path):
    llm = load_llm(save(tmp_path, family), block="differences")
    with pytest.raises(LiDiTError, match="not attention to keys and values of their own"):
        LLMEncoder(llm, "short")


def test_the_llm_is_left_as_it_was_though_a_block_fails(llama):
    llm = load_llm(llama, block="differences", dtype=torch.float32)
    encoder = LLMEncoder(llm, "short")
    expected = encoder.encode(["two bees"])
    block, calls = decoder_blocks(llm.module)[3], []

    def fail_when_alone(*_):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("out of memory")

    failing = block.mlp.register_forward_hook(fail_when_alone)
    with pytest.raises(RuntimeError, match="out of memory"):
        encoder.encode(["a cat"])
    failing.remove()
    for each in decoder_blocks(llm.module):
        assert "forward" not in vars(each.self_attn) and not each._forward_hooks
    assert torch.equal(encoder.encode(["two bees"]).hidden, expected.hidden)


def test_bfloat16_is_close(llama):
    exact, rough = (
        LLMEncoder(load_llm(llama, "differences", dtype), "short").encode(["two bees"]).hidden
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert rough.dtype == torch.bfloat16
    assert 1e-4 < (rough.float() - exact).norm() / exact.norm() < 0.1


def test_placed_by_accelerate(llama):
    """Offloaded weights come and go with each of the two passes; its wrapped forwards stay."""
    accelerate = pytest.importorskip("accelerate")
    plain = LLMEncoder(load_llm(llama, "differences", torch.float32), "short").encode(PROMPTS)
    llm = load_llm(llama, "differences", torch.float32)
    accelerate.cpu_offload(llm.module, execution_device=torch.device("cpu"))
    wrapped = [block.self_attn.forward for block in decoder_blocks(llm.module)]
    states = LLMEncoder(llm, "short", device="cpu").encode(PROMPTS)
    assert torch.allclose(states.hidden, plain.hidden, atol=LIMIT)
    assert [block.self_attn.forward for block in decoder_blocks(llm.module)] == wrapped
    spread = load_llm(llama, "differences", torch.float32, device_map="auto")
    states = LLMEncoder(spread, "short").encode(PROMPTS).to("cpu")
    assert torch.allclose(states.hidden, plain.hidden, atol=1e-4)


def test_cached_apart_from_every_block(llama, tmp_path):
    keep = {"template": "short", "disk_cache": tmp_path / "states"}
    every, ours = (PromptEncoder(llama, block=b, **keep) for b in ("all", "differences"))
    assert every.identity() != ours.identity()
    assert not torch.equal(every.encode(["two bees"]).hidden, ours.encode(["two bees"]).hidden)
    again = PromptEncoder(llama, block="differences", **keep)
    assert torch.equal(again.encode(["two bees"]).hidden, ours.encode(["two bees"]).hidden)
    assert not again.loaded and again.encode(["two bees"]).width == 7 * 32


def test_a_model_may_be_trained_on_them():
    assert LLMSpec("tiny", 7 * 32, "differences").block == "differences"
    with pytest.raises(LiDiTError, match="a number, several, 'all' or 'differences'"):
        LLMSpec("tiny", 7 * 32, "difference")


@pytest.mark.llm
@pytest.mark.parametrize("name", ["SmolLM2-135M-Instruct", "gemma-3-270m"])
def test_demo_llms_equal_the_formulas(name):
    from transformers import AutoModel

    if not available(name):
        pytest.skip(f"{name} is not on this machine; get it with `lidit fetch`")
    llm = load_llm(name, "differences", torch.float32)
    encoder = LLMEncoder(llm, "none")
    ids = encoder.renderer("two bees").ids
    decoder = AutoModel.from_pretrained(locate(name).folder).float().eval()
    theirs, stream = literal_states(decoder, ids)
    ours = encoder.encode(["two bees"]).hidden[0].unflatten(-1, (llm.blocks + 1, llm.width))
    assert error(ours, theirs, stream) <= LIMIT
